// Rough Bergomi by the hybrid scheme, see hedgerl.sim.RoughBergomi: noise, Volterra process, variance and spot of a
// path in one pass.
//
// The convolution is a product with a triangular matrix, TILE steps at a time: TILE sums lie in registers, the weights
// are the same for all threads of a warp, and each earlier increment is read once a tile, from `driver`, where it must
// be kept anyway for the forward-variance curve.

struct alignas(16) Four {  // weights that are loaded together
    real of[4];
};

KERNEL void rough_bergomi(
    unsigned int key0, unsigned int key1, long long first, int antithetic,
    int has_noise, const real *__restrict__ noise,    // (3, n_steps, n_paths)
    int n_steps, long long n_paths,
    const Four *__restrict__ weights,                 // (tiles, n_steps, TILE): the kernel averaged over each cell
    const real *__restrict__ steps,                   // (n_steps, 4): dt, sqrt(dt), residual, Var Y at the end
    const real *__restrict__ log_curve,               // (n_steps + 1)
    const int *__restrict__ row_after,                // (n_steps): row of the results, 0 for none
    const real *__restrict__ each_eta, int eta_by_path,
    const real *__restrict__ each_rho, int rho_by_path,
    const real *__restrict__ each_growth, int growth_by_path,
    const real *__restrict__ each_shift, int shift_by_path,  // of the log curve
    real initial_spot, real premium,                  // drift of W per year
    real *__restrict__ spot, real *__restrict__ variance, real *__restrict__ driver)
{
    Stream stream = {{key0, key1}, first, antithetic};
    const real *given = has_noise ? noise : 0;
    FOR_EACH(path, n_paths)
    {
        const real eta = each_eta[eta_by_path ? path : 0], rho = each_rho[rho_by_path ? path : 0];
        const real growth = each_growth[growth_by_path ? path : 0], shift = each_shift[shift_by_path ? path : 0];
        const real complement = sqrt(real(1.0) - rho * rho);
        real log_spot = real(0.0), volatility = exp(real(0.5) * (log_curve[0] + shift));
        real now = volatility * volatility;
        spot[path] = initial_spot;
        variance[path] = now;
        for (int start = 0; start < n_steps; start += TILE) {
            const Four *__restrict__ tile = weights + (long long)(start / TILE) * n_steps * (TILE / 4);
            real volterra[TILE];
            #pragma unroll
            for (int i = 0; i < TILE; ++i) volterra[i] = real(0.0);
            for (int past = 0; past < start; ++past) {
                const real increment = driver[past * n_paths + path];
                #pragma unroll
                for (int i = 0; i < TILE; ++i) volterra[i] += tile[past * TILE / 4 + i / 4].of[i % 4] * increment;
            }
            #pragma unroll
            for (int quad = 0; quad < TILE / 4; ++quad) {
                real own[4], left[4], other[4];
                if (start + 4 * quad < n_steps) {
                    four_noises(stream, given, n_steps, n_paths, path, start / 4 + quad, 0, own);
                    four_noises(stream, given, n_steps, n_paths, path, start / 4 + quad, 1, left);
                    four_noises(stream, given, n_steps, n_paths, path, start / 4 + quad, 2, other);
                }
                #pragma unroll
                for (int each = 0; each < 4; ++each) {
                    const int i = 4 * quad + each, step = start + i;
                    if (step < n_steps) {
                        const real dt = steps[4 * step], root = steps[4 * step + 1];
                        // d log S = (growth - v / 2) dt + sqrt(v dt) (rho Z + sqrt(1 - rho^2) Z')
                        log_spot += volatility * root * (rho * own[each] + complement * other[each]);
                        log_spot += (growth - real(0.5) * now) * dt;
                        const real increment = root * own[each] + premium * dt;
                        driver[step * n_paths + path] = increment;
                        #pragma unroll
                        for (int later = i; later < TILE; ++later)
                            volterra[later] += tile[step * TILE / 4 + later / 4].of[later % 4] * increment;
                        // log v = log xi_0 + eta Y - eta^2 / 2 Var Y at the end of the step
                        const real y = volterra[i] + steps[4 * step + 2] * left[each];
                        volatility = exp(
                            real(0.5) * (log_curve[step + 1] + shift) + real(0.5) * eta * y
                            - real(0.25) * eta * eta * steps[4 * step + 3]);
                        now = volatility * volatility;
                        const int row = row_after[step];
                        if (row) {
                            spot[row * n_paths + path] = initial_spot * exp(log_spot);
                            variance[row * n_paths + path] = now;
                        }
                    }
                }
            }
        }
    }
}
