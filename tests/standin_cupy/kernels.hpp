// The names of CUDA that the package's kernels use, for g++. A launch runs thread after thread.
#include <cmath>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict

struct Place {
    unsigned int x;
};
static Place blockIdx, threadIdx, blockDim, gridDim;

extern "C" void place(unsigned int block, unsigned int blocks, unsigned int thread, unsigned int threads)
{
    blockIdx.x = block;
    gridDim.x = blocks;
    threadIdx.x = thread;
    blockDim.x = threads;
}

using std::asinh;
using std::erfc;
using std::exp;
using std::log;
using std::log1p;
using std::sqrt;

static inline unsigned int __umulhi(unsigned int a, unsigned int b) { return (unsigned long long)a * b >> 32; }

template <typename T> static inline void sincospi(T x, T *sine, T *cosine)
{
    *sine = T(std::sin(3.14159265358979323846 * x));
    *cosine = T(std::cos(3.14159265358979323846 * x));
}
