// What the kernels of marks share: contracts by path, and Black-Scholes by hedgerl.pricing.black_scholes' formulas.
//
// A path whose spot or variance is not a number has marks that are none: comparisons are written so that NaN passes.

#define CONTRACT                                                              \
    const real *__restrict__ spots,                                           \
    int strike_by_path, const real *__restrict__ strikes, real one_strike,    \
    int right_by_path, const bool *__restrict__ rights, int one_right
// years left and their root, log(F / S), e^{-qT}, e^{-rT}; per year: r, q
#define TERMS real left, real root, real carry, real paid, real discount, real rate, real dividend

#define SPOT_OF(path) spots[path]
#define STRIKE_OF(path) (strike_by_path ? strikes[path] : one_strike)
#define IS_CALL_OF(path) (right_by_path ? rights[path] : one_right != 0)

DEVICE real at_least(real x, real floor) { return x < floor ? floor : x; }

DEVICE real at_most(real x, real cap) { return x > cap ? cap : x; }

DEVICE real normal_cdf(real x) { return real(0.5) * erfc(x * real(-0.7071067811865476)); }

struct Greeks {
    real price, delta, gamma, vega, theta, vanna, volga;
};

DEVICE Greeks black_scholes(real spot, real strike, bool is_call, real volatility, TERMS)
{
    const real cap = real(10.0), sign = is_call ? real(1.0) : real(-1.0);
    spot = at_least(spot, real(1e-6));
    strike = at_least(strike, real(1e-6));
    const real floored = at_least(volatility, real(1e-4)), deviation = floored * root;
    real d1 = (log(spot / strike) + carry) / deviation + real(0.5) * deviation;
    const real d2 = at_most(at_least(d1 - deviation, -cap), cap);
    d1 = at_most(at_least(d1, -cap), cap);
    const real asset = spot * paid, cash = strike * discount;
    const real exercised = sign * cash * normal_cdf(sign * d2);
    const real density = real(0.3989422804014327) * exp(real(-0.5) * d1 * d1);
    const real intrinsic = at_least(sign * (asset - cash), real(0.0)), spread = asset * density;
    Greeks g;
    g.delta = paid * (sign * normal_cdf(sign * d1));
    g.price = intrinsic
        + at_least(spot * g.delta - exercised - intrinsic, real(0.0)) * (volatility * sqrt(left) / deviation);
    g.vega = spread * root;
    g.gamma = paid * density / (spot * deviation);
    g.theta = dividend * spot * g.delta - rate * exercised - spread * floored / (real(2.0) * root);
    g.vanna = -paid * density * d2 / floored;
    g.volga = g.vega * d1 * d2 / floored;
    return g;
}

// Marks (5, n_paths) at an implied volatility that has a smile, see hedgerl.sim.market.smile_marks.
DEVICE void keep_smiled(
    real *__restrict__ marks, long long n_paths, long long path, real spot, const Greeks &flat,
    real by_log_strike, real by_log_strike_twice, real by_volatility)
{
    // the derivative of log(K / F) by spot is -1 / S
    const real by_spot = -by_log_strike / spot;
    const real by_spot_twice = (by_log_strike_twice + by_log_strike) / (spot * spot);
    marks[path] = flat.price;
    marks[n_paths + path] = flat.delta + flat.vega * by_spot;
    marks[2 * n_paths + path] =
        flat.gamma + (real(2.0) * flat.vanna + flat.volga * by_spot) * by_spot + flat.vega * by_spot_twice;
    marks[3 * n_paths + path] = flat.vega * by_volatility;
    marks[4 * n_paths + path] = flat.theta;
}
