// Heston's marks: Black-Scholes at the expected volatility and a correction from a bicubic spline, see
// hedgerl.sim.heston and hedgerl.sim.spline.

struct Weights {  // of the four B-splines that reach a place: values, slopes and curvatures
    int first;
    real of[3][4];
};

DEVICE Weights spline_weights(real place, int size)
{
    place = at_most(at_least(place, real(0.0)), real(size - 3));
    Weights w;
    w.first = int(place);  // of NaN any number
    w.first = w.first < 0 ? 0 : w.first < size - 4 ? w.first : size - 4;
    const real t = place - real(w.first), rest = real(1.0) - t, square = t * t, rest_square = rest * rest;
    const real sixth = real(1.0 / 6.0), two_thirds = real(2.0 / 3.0);
    w.of[0][0] = rest * rest_square * sixth;
    w.of[0][1] = (real(0.5) * t - real(1.0)) * square + two_thirds;
    w.of[0][2] = (real(0.5) * rest - real(1.0)) * rest_square + two_thirds;
    w.of[0][3] = t * square * sixth;
    w.of[1][0] = real(-0.5) * rest_square;
    w.of[1][1] = (real(1.5) * t - real(2.0)) * t;
    w.of[1][2] = (real(2.0) - real(1.5) * rest) * rest;
    w.of[1][3] = real(0.5) * square;
    w.of[2][0] = rest;
    w.of[2][1] = real(3.0) * t - real(2.0);
    w.of[2][2] = real(3.0) * rest - real(2.0);
    w.of[2][3] = t;
    return w;
}

KERNEL void heston_marks(
    long long n_paths, CONTRACT, TERMS,
    const real *__restrict__ variances,       // (n_paths)
    real kappa, real theta, real sigma, real rho,
    real keep,                                // what the mean variance up to expiry keeps of v - theta
    const real *__restrict__ table, int rows, int columns,  // the spline's coefficients
    real low_x, real low_y, real step_x, real step_y, real widest,  // |x| beyond which there is no correction
    real *__restrict__ marks)                 // (5, n_paths): price, delta, gamma, vega, theta
{
    const real root_left = sqrt(left), per_x = real(1.0) / step_x, per_y = real(1.0) / step_y;
    FOR_EACH(path, n_paths)
    {
        const real spot = SPOT_OF(path), strike = STRIKE_OF(path), variance = variances[path];
        const bool is_call = IS_CALL_OF(path);
        const real volatility = sqrt(theta + (variance - theta) * keep), s = volatility * root_left;
        const real x = (log(strike / spot) - carry) / s;
        const bool inside = (x < 0 ? -x : x) <= widest;

        const Weights along_x = spline_weights((asinh(x) - low_x) / step_x, rows);
        const Weights along_y = spline_weights((log(volatility) - low_y) / step_y, columns);
        real c = 0, c_x = 0, c_xx = 0, c_y = 0, c_xy = 0, c_yy = 0;
        #pragma unroll
        for (int i = 0; i < 4; ++i) {
            const real *row = table + (along_x.first + i) * columns + along_y.first;
            real sum = 0, sum_y = 0, sum_yy = 0;
            #pragma unroll
            for (int j = 0; j < 4; ++j) {
                sum += along_y.of[0][j] * row[j];
                sum_y += along_y.of[1][j] * row[j];
                sum_yy += along_y.of[2][j] * row[j];
            }
            c += along_x.of[0][i] * sum;
            c_x += along_x.of[1][i] * sum;
            c_xx += along_x.of[2][i] * sum;
            c_y += along_x.of[0][i] * sum_y;
            c_xy += along_x.of[1][i] * sum_y;
            c_yy += along_x.of[0][i] * sum_yy;
        }
        c_x *= per_x;
        c_xx *= per_x * per_x;
        c_y *= per_y;
        c_xy *= per_x * per_y;
        c_yy *= per_y * per_y;

        // derivatives of the correction by x instead of asinh(x)
        const real held = inside ? real(1.0) : real(0.0), slope = held / sqrt(real(1.0) + x * x);
        const real value = c * held, by_x = c_x * slope, by_log = c_y * held, by_log_twice = c_yy * held;
        const real by_x_twice = (c_xx - c_x * x * slope) * slope * slope, mixed = c_xy * slope;
        const Greeks flat =
            black_scholes(spot, strike, is_call, volatility, left, root, carry, paid, discount, rate, dividend);
        // U = A s c(x, l), with A the discounted forward, l the log volatility, dx/dl = -x and dx/dF = -1 / (F s)
        const real asset = spot * paid, cash = strike * discount, moved = value - x * by_x + by_log;
        const real price = flat.price + asset * s * value;
        const real delta = flat.delta + paid * (s * value - by_x);
        const real gamma = flat.gamma + paid / spot * (by_x_twice / s - by_x);
        const real log_vega = flat.vega * volatility + asset * s * moved;
        const real log_volga = (flat.volga * volatility + flat.vega) * volatility
            + asset * s
                * (moved + by_log + x * x * by_x_twice - real(2.0) * x * mixed + by_log_twice);
        const real log_vanna = flat.vanna * volatility + paid * (s * moved + x * by_x_twice - mixed);
        const real per_variance = real(0.5) * keep / (volatility * volatility);  // dl/dv
        const real by_variance = log_vega * per_variance;
        const real by_variance_twice = (log_volga - real(2.0) * log_vega) * per_variance * per_variance;
        const real intrinsic = at_least(is_call ? asset - cash : cash - asset, real(0.0));
        marks[path] = at_most(at_least(price, intrinsic), is_call ? asset : cash);
        marks[n_paths + path] = delta;
        marks[2 * n_paths + path] = gamma;
        marks[3 * n_paths + path] = real(2.0) * sqrt(variance) * by_variance;
        // Heston's equation, solved for dV/dt
        marks[4 * n_paths + path] = rate * price - (rate - dividend) * spot * delta
            - real(0.5) * variance * spot * spot * gamma
            - rho * sigma * variance * spot * log_vanna * per_variance
            - real(0.5) * sigma * sigma * variance * by_variance_twice - kappa * (theta - variance) * by_variance;
    }
}
