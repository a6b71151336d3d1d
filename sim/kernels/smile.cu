// Marks on a fitted smile, see hedgerl.sim.smile.Smile and hedgerl.sim.market.smile_marks.
//
// Every thread of a warp reads the same coefficients, and each basis function is gone through once: nothing but sums
// has to be kept, whatever the numbers of features, of basis functions and of degrees.

struct alignas(16) Coefficients {  // of g, dg/du and d^2 g / du^2
    real of, by_u, by_u_twice, unused;
};

struct Chebyshev {
    real value, slope;
};

// T_degree and its slope, by T_n+1 = 2 x T_n - T_n-1 from T_-1 = x and T_0 = 1.
DEVICE Chebyshev chebyshev(real x, int degree)
{
    real value = real(1.0), before = x, slope = real(0.0), slope_before = real(1.0);
    for (int i = 0; i < degree; ++i) {
        const real next = real(2.0) * x * value - before;
        const real slope_next = real(2.0) * value + real(2.0) * x * slope - slope_before;
        before = value;
        value = next;
        slope_before = slope;
        slope = slope_next;
    }
    Chebyshev result = {value, slope};
    return result;
}

KERNEL void smile(
    long long n_paths, CONTRACT, TERMS,
    real per_root,                            // a root of a year over that of the years left
    const real *__restrict__ state,           // (2 + n_features, n_paths): s, d log s / d(volatility), features
    int n_features, int n_basis, int n_powers,
    const int *__restrict__ degrees,          // (n_basis, 1 + n_features): how many coefficients; of each feature
    const real *__restrict__ ranges,          // (n_features, 2): middle and half width
    const Coefficients *__restrict__ coefficients,  // (n_basis, n_powers)
    const real *__restrict__ wings,           // (n_basis, 2): slope of g beyond the left and the right edge
    real edge, real per_bend, real per_range,
    real reach, real turn, real steepest_left, real steepest_right, real least,
    real *__restrict__ marks)                 // (5, n_paths): price, delta, gamma, vega, theta
{
    FOR_EACH(path, n_paths)
    {
        const real spot = SPOT_OF(path), strike = STRIKE_OF(path), s = state[path];
        const bool is_call = IS_CALL_OF(path);
        const real *features = state + 2 * n_paths + path;
        const real x = (log(strike / spot) - carry) / s;
        const real clipped = at_most(at_least(x, -edge), edge);
        const real by_x = real(1.0) / sqrt(real(1.0) + clipped * per_bend * (clipped * per_bend));  // u / x
        const real u = clipped * by_x, place = u * per_range;
        const real first = (features[0] - ranges[0]) / ranges[1];
        const real unit = at_most(at_least(first, real(-1.0)), real(1.0));

        real value = 0, by_u = 0, by_u_twice = 0, by_unit = 0, left_wing = 0, right_wing = 0;
        for (int basis = 0; basis < n_basis; ++basis) {
            const int *degree = degrees + basis * (1 + n_features);
            const Coefficients *of = coefficients + basis * n_powers;
            Chebyshev product = chebyshev(unit, degree[1]);
            for (int each = 1; each < n_features; ++each) {
                if (degree[1 + each] == 0) continue;
                const real other = (features[each * n_paths] - ranges[2 * each]) / ranges[2 * each + 1];
                const real factor = chebyshev(at_most(at_least(other, real(-1.0)), real(1.0)), degree[1 + each]).value;
                product.value *= factor;
                product.slope *= factor;
            }
            real sum = 0, sum_by_u = 0, sum_by_u_twice = 0, power = real(1.0), before = place;
            for (int i = 0; i < degree[0]; ++i) {
                const Coefficients c = of[i];
                sum += c.of * power;
                sum_by_u += c.by_u * power;
                sum_by_u_twice += c.by_u_twice * power;
                const real next = real(2.0) * place * power - before;
                before = power;
                power = next;
            }
            value += sum * product.value;
            by_u += sum_by_u * product.value;
            by_u_twice += sum_by_u_twice * product.value;
            by_unit += sum * product.slope;
            left_wing += wings[2 * basis] * product.value;
            right_wing += wings[2 * basis + 1] * product.value;
        }
        // du/dx = (u/x)^3, d^2 u / dx^2 = -3 u (u/x)^4 / bend^2
        const real square = by_x * by_x, slope = by_u * square * by_x;
        const real curvature =
            (by_u_twice * square - by_u * u * (real(3.0) * per_bend * per_bend)) * square * square;
        // beyond the edges the slope turns from that at the edge into that of the wing
        const real out = at_most(at_least(x - clipped, -reach), reach), distance = out < 0 ? -out : out;
        const real direction = out > 0 ? real(1.0) : out < 0 ? real(-1.0) : real(0.0);
        const real wing = x < 0 ? at_most(at_least(left_wing, -steepest_left), real(0.0))
                                : at_most(at_least(right_wing, real(0.0)), steepest_right);
        const real fading = (slope - wing) * exp(-distance / turn);
        const real ratio = at_least(value + wing * out + direction * turn * (slope - wing - fading), least);
        const real ratio_by_x = distance < reach ? wing + fading : real(0.0);
        const real ratio_by_x_twice = x == clipped ? curvature : -direction * fading / turn;
        const real by_log_deviation = first == unit ? by_unit / ranges[1] : real(0.0);

        const Greeks flat = black_scholes(
            spot, strike, is_call, s * ratio * per_root, left, root, carry, paid, discount, rate, dividend);
        keep_smiled(
            marks, n_paths, path, spot, flat, ratio_by_x * per_root, ratio_by_x_twice * per_root / s,
            (ratio - x * ratio_by_x + by_log_deviation) * s * per_root * state[n_paths + path]);
    }
}
