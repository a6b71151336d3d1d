// Heston by the quadratic-exponential scheme of Andersen (2008), see hedgerl.sim.Heston: noise, variance and spot of a
// path in one pass.

#define N_COEFFICIENTS 8

KERNEL void heston(
    unsigned int key0, unsigned int key1, long long first, int antithetic,
    int has_noise, const real *__restrict__ noise,     // (2, n_steps, n_paths): variance, spot
    int n_steps, long long n_paths,
    const int *__restrict__ kinds,                     // (n_steps): which length a step has
    const int *__restrict__ row_after,                 // (n_steps): row of the results, 0 for none
    const real *__restrict__ coefficients, int by_path,  // (lengths, N_COEFFICIENTS, n_paths or 1)
    const real *__restrict__ initial, int initial_by_path,  // variance at time 0
    real initial_spot, real *__restrict__ spot, real *__restrict__ variance)
{
    Stream stream = {{key0, key1}, first, antithetic};
    const real *given = has_noise ? noise : 0;
    const long long stride = by_path ? n_paths : 1;
    FOR_EACH(path, n_paths)
    {
        real log_spot = real(0.0), now = initial[initial_by_path ? path : 0];
        real z[4], own[4];
        int kind = -1;
        real decay = 0, mean_floor = 0, slope = 0, variance_floor = 0, k2 = 0, k3 = 0, exponent = 0, grown = 0;
        spot[path] = initial_spot;
        variance[path] = now;
        for (int start = 0; start < n_steps; start += 4) {
            four_noises(stream, given, n_steps, n_paths, path, start / 4, 0, z);
            four_noises(stream, given, n_steps, n_paths, path, start / 4, 1, own);
            #pragma unroll
            for (int each = 0; each < 4; ++each) {
                const int step = start + each;
                if (step >= n_steps) continue;
                if (kinds[step] != kind) {
                    kind = kinds[step];
                    const real *c = coefficients + kind * N_COEFFICIENTS * stride + (by_path ? path : 0);
                    decay = c[0];
                    mean_floor = c[stride];
                    slope = c[2 * stride];
                    variance_floor = c[3 * stride];
                    k2 = c[4 * stride];
                    k3 = c[5 * stride];
                    exponent = c[6 * stride];
                    grown = c[7 * stride];
                }
                const real normal = z[each];
                // psi = s^2 / m^2 with m and s^2 the mean and the variance of v' given v
                const real mean = now * decay + mean_floor;
                const real psi = (now * slope + variance_floor) / (mean * mean);
                real deviation, log_moment;  // d = v' - m and log E[exp(A d)]
                if (psi > real(1.5)) {
                    // v' = 0 with probability p = 1 - atom, else exponential with the rate atom / m
                    const real atom = real(2.0) / (psi + real(1.0)), per_rate = mean / atom;
                    const real upper = real(0.5) * erfc(normal * real(0.7071067811865476));  // 1 - U
                    const real tail = log(atom / upper);
                    deviation = (tail > real(0.0) ? tail : real(0.0)) * per_rate - mean;
                    real moment = real(1.0) - exponent * per_rate;  // infinite beyond, see hedgerl.sim.Heston
                    moment = moment > real(1e-3) ? moment : real(1e-3);
                    log_moment = log1p(atom / moment - atom) - exponent * mean;
                } else {
                    // v' = a (b + Z)^2 with b^2 = 2 / psi - 1 + sqrt(2 / psi) sqrt(2 / psi - 1) and a = m / (1 + b^2)
                    const real least = psi > real(1e-20) ? psi : real(1e-20);
                    const real root =  // 1 + b^2
                        (sqrt(real(1.0) - real(0.5) * least) + real(1.0)) * (real(2.0) / least);
                    const real square = root - real(1.0), scale = mean / root;
                    real rest = real(-2.0) * exponent * scale;
                    rest = rest > real(-0.999) ? rest : real(-0.999);
                    // A a b^2 x / (1 - x) - (log(1 - x) + x) / 2 with x = 2 A a = -rest
                    log_moment = -exponent * scale * square * rest / (real(1.0) + rest)
                        - real(0.5) * (log1p(rest) - rest);
                    deviation = scale * ((real(2.0) * sqrt(square) + normal) * normal - real(1.0));
                }
                // Andersen's (33) in d, see hedgerl.sim.Heston
                real next = mean + deviation;
                next = next > real(0.0) ? next : real(0.0);
                log_spot -= real(0.5) * k3 * (now + mean);
                real both = now + mean + deviation;
                both = both > real(0.0) ? both : real(0.0);
                log_spot += sqrt(k3 * both) * own[each] + k2 * deviation - log_moment + grown;
                now = next;
                const int row = row_after[step];
                if (row) {
                    spot[row * n_paths + path] = initial_spot * exp(log_spot);
                    variance[row * n_paths + path] = now;
                }
            }
        }
    }
}
