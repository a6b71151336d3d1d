// What a smile is read at, of curves of expected variance, see hedgerl.sim.mixing.curve_features.
//
// The expected variance over bin j is factor_j v exp(moved_j) for j = 0, where nothing moves it but v, and
// factor_j exp(moved_j) for the others.
KERNEL void curve_features(
    long long n_paths,
    const real *__restrict__ variance,        // (n_paths): v, now
    int n_bins, const real *__restrict__ bins,  // (n_bins, 3): factor, middle over tau, share in the first quarter
    int has_moved, const real *__restrict__ moved,  // (n_bins - 1, n_paths)
    int shaped, int n_features,
    real per_root,                            // 1 / sqrt(tau)
    real *__restrict__ state)  // (2 + n_features, n_paths): s, d log s / d(model's volatility), features
{
    FOR_EACH(path, n_paths)
    {
        const real now = variance[path];
        real total = bins[0] * now, centre = total * bins[1], early = total * bins[2];
        for (int j = 1; j < n_bins; ++j) {
            const real mass = bins[3 * j] * (has_moved ? exp(moved[(j - 1) * n_paths + path]) : real(1.0));
            total += mass;
            centre += bins[3 * j + 1] * mass;
            early += bins[3 * j + 2] * mass;
        }
        const real s = sqrt(total), current = sqrt(now), volatility = s * per_root;
        state[path] = s;
        // all of a shaped curve is scaled; else the current volatility moves
        state[n_paths + path] = shaped ? real(1.0) / volatility : bins[0] * current / total;
        state[2 * n_paths + path] = log(volatility);
        if (n_features > 1) state[3 * n_paths + path] = current / volatility;
        if (n_features > 2) state[4 * n_paths + path] = centre / total;
        if (n_features > 3) state[5 * n_paths + path] = early / total;
    }
}
