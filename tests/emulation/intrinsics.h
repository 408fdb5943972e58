// CUDA's vector types and single-thread functions: bits, conversions, arithmetic with explicit rounding.
#pragma once

#include "schedule.h"

#define EMULATION_VECTORS(type, name, bytes1)                                                                  \
    struct alignas(2 * bytes1) name##2 { type x, y; };                                                         \
    struct name##3 { type x, y, z; };                                                                          \
    struct alignas(4 * bytes1 > 16 ? 16 : 4 * bytes1) name##4 { type x, y, z, w; };                            \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                           \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATION_VECTORS(float, float, 4)
EMULATION_VECTORS(int, int, 4)
EMULATION_VECTORS(unsigned, uint, 4)
EMULATION_VECTORS(short, short, 2)
EMULATION_VECTORS(unsigned short, ushort, 2)
EMULATION_VECTORS(signed char, char, 1)
EMULATION_VECTORS(unsigned char, uchar, 1)
EMULATION_VECTORS(unsigned long long, ulonglong, 8)
#undef EMULATION_VECTORS

namespace emulation {

template <typename To, typename From>
To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

// As the device converts: NaN becomes 0, and a value out of range the nearest one in range.
template <typename To>
To saturate(float rounded) {
    constexpr bool is_signed = (To)-1 < (To)0;
    constexpr To most = is_signed ? (To)(~0ull >> (65 - 8 * sizeof(To))) : (To)~0ull;
    constexpr To least = is_signed ? (To)(-most - 1) : (To)0;
    if (rounded != rounded) return 0;
    if (rounded <= (float)least) return least;
    if (rounded >= (float)most) return most;
    return (To)rounded;
}

}  // namespace emulation

inline unsigned __float_as_uint(float v) { return emulation::bits_as<unsigned>(v); }
inline int __float_as_int(float v) { return emulation::bits_as<int>(v); }
inline float __uint_as_float(unsigned v) { return emulation::bits_as<float>(v); }
inline float __int_as_float(int v) { return emulation::bits_as<float>(v); }
inline long long __double_as_longlong(double v) { return emulation::bits_as<long long>(v); }
inline double __longlong_as_double(long long v) { return emulation::bits_as<double>(v); }

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz((unsigned)v); }
inline int __clzll(long long v) { return v == 0 ? 64 : __builtin_clzll((unsigned long long)v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline unsigned __brev(unsigned v) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) reversed |= (v >> i & 1u) << (31 - i);
    return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

#define EMULATION_CONVERT(suffix, rounding)                                                                    \
    inline int __float2int_##suffix(float v) { return emulation::saturate<int>(rounding(v)); }                 \
    inline unsigned __float2uint_##suffix(float v) { return emulation::saturate<unsigned>(rounding(v)); }      \
    inline long long __float2ll_##suffix(float v) { return emulation::saturate<long long>(rounding(v)); }
EMULATION_CONVERT(rn, rintf)
EMULATION_CONVERT(rz, truncf)
EMULATION_CONVERT(rd, floorf)
EMULATION_CONVERT(ru, ceilf)
#undef EMULATION_CONVERT
inline float __int2float_rn(int v) { return (float)v; }
inline float __uint2float_rn(unsigned v) { return (float)v; }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }
// If only one is a number, returns that.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// Loads and stores with a cache hint.
#define EMULATION_LOAD(name)                                                                                   \
    template <typename T>                                                                                      \
    inline T name(const T *at) {                                                                               \
        return *at;                                                                                            \
    }
EMULATION_LOAD(__ldg)
EMULATION_LOAD(__ldca)
EMULATION_LOAD(__ldcg)
EMULATION_LOAD(__ldcs)
EMULATION_LOAD(__ldcv)
#undef EMULATION_LOAD
#define EMULATION_STORE(name)                                                                                  \
    template <typename T>                                                                                      \
    inline void name(T *at, T value) {                                                                         \
        *at = value;                                                                                           \
    }
EMULATION_STORE(__stcg)
EMULATION_STORE(__stcs)
EMULATION_STORE(__stwb)
EMULATION_STORE(__stwt)
#undef EMULATION_STORE

[[noreturn]] inline void __trap() { emulation::fail("__trap()"); }
