// What all kernels share: a thread for each path, and standard normals by the path, the step and the row they drive.
//
// Compiled with -DREAL=float or -DREAL=double. Only what C++ without CUDA also has is used, but for the few names that
// tests/standin_cupy/kernels.hpp defines: so the same text runs on a CPU, thread after thread.

typedef REAL real;

// A thread takes path after path: results cannot depend on how many threads or blocks there are.
#define FOR_EACH(index, count) \
    for (long long index = FIRST_THREAD; index < (count); index += ALL_THREADS)

// Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011): the words of a counter under a key.
DEVICE void philox(const unsigned int key[2], const unsigned int counter[4], unsigned int words[4])
{
    unsigned int a = counter[0], b = counter[1], c = counter[2], d = counter[3], key0 = key[0], key1 = key[1];
    for (int round = 0; round < 10; ++round) {
        unsigned int high_a = __umulhi(0xD2511F53u, a), low_a = 0xD2511F53u * a;
        unsigned int high_c = __umulhi(0xCD9E8D57u, c), low_c = 0xCD9E8D57u * c;
        a = high_c ^ b ^ key0;
        b = low_c;
        c = high_a ^ d ^ key1;
        d = low_a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    words[0] = a;
    words[1] = b;
    words[2] = c;
    words[3] = d;
}

// Two standard normals of two words (Box & Muller 1958), the formula of hedgerl.sim.noise.
DEVICE void box_muller(unsigned int first, unsigned int second, real *z)
{
    real sine, cosine;
    real radius = sqrt(real(-2.0) * log((real(first) + real(0.5)) * real(2.3283064365386963e-10)));
    sincospi(real(int(second)) * real(4.656612873077393e-10), &sine, &cosine);
    z[0] = radius * cosine;
    z[1] = radius * sine;
}

struct Stream {
    unsigned int key[2];
    long long first;  // path: number of the first one
    int antithetic;   // whether paths 2i and 2i + 1 carry opposite noise
};

// Four standard normals: those of the steps 4 quad .. 4 quad + 3 that row `row` is driven by.
DEVICE void four_normals(const Stream &stream, long long path, unsigned int quad, unsigned int row, real z[4])
{
    unsigned long long number = (unsigned long long)(stream.first + path);
    real sign = real(1.0);
    if (stream.antithetic) {
        sign = number & 1 ? real(-1.0) : real(1.0);
        number >>= 1;
    }
    unsigned int words[4];
    unsigned int counter[4] = {(unsigned int)number, (unsigned int)(number >> 32), quad, row};
    philox(stream.key, counter, words);
    box_muller(words[0], words[1], z);
    box_muller(words[2], words[3], z + 2);
    if (stream.antithetic)
        for (int i = 0; i < 4; ++i) z[i] *= sign;
}

// The same from an array (rows, n_steps, n_paths) where there is one; 0 beyond the last step.
DEVICE void four_noises(
    const Stream &stream, const real *given, int n_steps, long long n_paths, long long path, int quad, int row,
    real z[4])
{
    if (given == 0) {
        four_normals(stream, path, quad, row, z);
        return;
    }
    for (int i = 0; i < 4; ++i) {
        int step = 4 * quad + i;
        z[i] = step < n_steps ? given[((long long)row * n_steps + step) * n_paths + path] : real(0.0);
    }
}
