// Short vectors for any processor: GCC and Clang vector extensions, as wide as the target's registers.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int REGISTER = 64, ACCUMULATORS = 16;  // bytes; enough in flight to hide the latency of a multiply-add
#elif defined(__AVX__)
constexpr int REGISTER = 32, ACCUMULATORS = 8;
#elif defined(__aarch64__)
constexpr int REGISTER = 16, ACCUMULATORS = 16;
#else
constexpr int REGISTER = 16, ACCUMULATORS = 8;
#endif

// Keeps a value in a register: compilers would rather load it again for each use, and loads are what is scarce.
#if defined(__x86_64__)
#define LMF_REGISTER(v) __asm__("" : "+x"(v))
#elif defined(__aarch64__)
#define LMF_REGISTER(v) __asm__("" : "+w"(v))
#else
#define LMF_REGISTER(v) (void)0
#endif
#define LMF_INLINE inline __attribute__((always_inline))
#ifdef __clang__
#define LMF_UNROLL _Pragma("unroll")
#else
#define LMF_UNROLL _Pragma("GCC unroll 16")
#endif

template <class T, int N>
struct Lanes {
    typedef T V __attribute__((vector_size(N * sizeof(T))));
    static LMF_INLINE V load(const T* p) {
        V v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static LMF_INLINE void store(T* p, V v) { std::memcpy(p, &v, sizeof v); }
    static LMF_INLINE void add(T* p, V v) { store(p, load(p) + v); }
};

// max(m, 0); NaN stays NaN. GCC does not find the instruction for vectors, which takes m if either is NaN.
template <class V>
LMF_INLINE V relu(V m) {
    const V zero{};
#if defined(__AVX__)
    if constexpr (sizeof(m[0]) == sizeof(float))
        __asm__("vmaxps %0, %1, %0" : "+v"(m) : "v"(zero));
    else
        __asm__("vmaxpd %0, %1, %0" : "+v"(m) : "v"(zero));
    return m;
#else
    return zero > m ? zero : m;
#endif
}

// R rows of D numbers, held in registers of N.
template <class T, int D, int R, int N = REGISTER / sizeof(T)>
struct Block {
    static constexpr int W = D / N;
    using L = Lanes<T, N>;
    using V = typename L::V;
    V at[R][W];

    LMF_INLINE void fill(const T* row) {
        LMF_UNROLL for (int r = 0; r < R; r++)
            LMF_UNROLL for (int v = 0; v < W; v++) at[r][v] = L::load(row + v * N);
    }
    LMF_INLINE void zero() {
        LMF_UNROLL for (int r = 0; r < R; r++)
            LMF_UNROLL for (int v = 0; v < W; v++) at[r][v] = V{};
    }
    // at[r] += sum over k of x[r * row + k * step] * weight[k * stride ...]
    LMF_INLINE void multiply(const T* x, int row, int step, const T* weight, int stride, int K) {
        LMF_UNROLL for (int k = 0; k < K; k++) {
            V w[W];
            LMF_UNROLL for (int v = 0; v < W; v++) {
                w[v] = L::load(weight + k * stride + v * N);
                if constexpr (sizeof(V) <= REGISTER) LMF_REGISTER(w[v]);
            }
            LMF_UNROLL for (int r = 0; r < R; r++) {
                const T factor = x[r * row + k * step];
                LMF_UNROLL for (int v = 0; v < W; v++) at[r][v] += factor * w[v];
            }
        }
    }
};

// How many rows of D numbers keep the multiply-add units busy without spilling.
template <class T, int D>
constexpr int block_rows() {
    constexpr int rows = ACCUMULATORS * REGISTER / int(sizeof(T)) / D;
    return rows < 1 ? 1 : rows > 16 ? 16 : rows;
}

// cos(pi f) and sin(pi f). Polynomials in r^2, |r| <= 1/2, fitted to 5e-8 (float); double takes the library's.
template <class V>
LMF_INLINE void sincospi(V f, V& c, V& s, float) {
    const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves no fraction
    const V n = (f + round) - round, half = n * 0.5f, odd = n - 2.0f * ((half + round) - round);
    const V r = f - n, u = r * r, sign = 1.0f - 2.0f * odd * odd;
    c = ((((-0.024396716565494823f * u + 0.23493755892940565f) * u - 1.3352120566628267f) * u + 4.05870916434238f) * u -
         4.934802137228356f) * u + 0.9999999997806517f;
    s = (((0.07765940825738274f * u - 0.5982921594840452f) * u + 2.5500776597312145f) * u - 5.167710090331886f) * u +
        3.1415926401839966f;
    c *= sign;
    s *= sign * r;
}

template <class V>
LMF_INLINE void sincospi(V f, V& c, V& s, double) {
    for (unsigned i = 0; i < sizeof(V) / sizeof(double); i++) {
        c[i] = __builtin_cos(3.14159265358979323846 * f[i]);
        s[i] = __builtin_sin(3.14159265358979323846 * f[i]);
    }
}
