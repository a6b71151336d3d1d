// Marks at implied volatilities by path, see hedgerl.sim.market.
KERNEL void implied(
    long long n_paths, CONTRACT, TERMS,
    int smiled, int by_path,
    // smiled: (4, n_paths) implied volatility, its slope and curvature by log(K), its slope by the model's volatility;
    // else a variance per year, (n_paths) or (1)
    const real *__restrict__ state,
    real *__restrict__ marks)  // (5, n_paths): price, delta, gamma, vega, theta
{
    FOR_EACH(path, n_paths)
    {
        const real spot = SPOT_OF(path), strike = STRIKE_OF(path);
        const bool is_call = IS_CALL_OF(path);
        const real given = state[by_path ? path : 0], volatility = smiled ? given : sqrt(given);
        const Greeks flat =
            black_scholes(spot, strike, is_call, volatility, left, root, carry, paid, discount, rate, dividend);
        keep_smiled(
            marks, n_paths, path, spot, flat, smiled ? state[n_paths + path] : real(0.0),
            smiled ? state[2 * n_paths + path] : real(0.0), smiled ? state[3 * n_paths + path] : real(1.0));
    }
}
