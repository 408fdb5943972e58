// exp, sin, cos and atan2 of f32 values in f64, by the same operations as `src/elementary.rs`, which has the reasons
// and the errors: CUDA's own differ in last bits from those of the CPU's library, and from version to version.
#pragma once

#include "common.cuh"

namespace elementary {

// The polynomial with these coefficients, the highest power's first.
template <int N>
__device__ __forceinline__ double polynomial(double x, const double (&coefficients)[N]) {
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < N; ++i) sum = sum * x + coefficients[i];
    return sum;
}

__device__ __forceinline__ double exp(float of) {
    const double x = (double)of, round = 6755399441055744.0;
    if (x > 709.0) return __longlong_as_double(0x7ff0000000000000ll);
    if (x < -708.0) return 0.0;
    const double rounded = x * 1.4426950408889634 + round;
    const double k = rounded - round;
    const double r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10;
    const double series = polynomial(r, {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
                                         1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0,
                                         1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0, 1.0, 1.0});
    // The low bits of the sum are k; shifted, they are what k adds to the exponent.
    const u64 power = ((u64)__double_as_longlong(rounded) << 52) + 0x3ff0000000000000ull;
    return series * __longlong_as_double((long long)power);
}

// 32 digits of 2/pi, from digit `at` of a row of 32 zeros and the digits.
__device__ __forceinline__ u64 digits_of_two_by_pi(u32 at) {
    static const u32 digits[8] = {0,           0xa2f9836eu, 0x4e441529u, 0xfc2757d1u,
                                  0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu};
    const u32 word = at / 32;
    const u64 pair = (u64)digits[word % 8] << 32 | digits[(word + 1) % 8];
    return pair << at % 32 >> 32;
}

__device__ __forceinline__ void sin_cos(float angle, double &sin, double &cos) {
    const u32 bits = __float_as_uint(angle) & 0x7fffffffu;
    u64 turns = 0;
    double r = (double)__uint_as_float(bits);
    // pi/4
    if (bits >= 0x3f490fdbu) {
        const u32 at = (bits >> 23) - 120u;
        const u64 mantissa = (bits & 0x7fffffu) | 0x800000u;
        const u64 right_angles = (mantissa * digits_of_two_by_pi(at) << 32) + mantissa * digits_of_two_by_pi(at + 32) +
                                 (mantissa * digits_of_two_by_pi(at + 64) >> 32);
        turns = (right_angles + (1ull << 61)) >> 62;
        r = (double)(long long)(right_angles - (turns << 62)) * 3.4061215800865545e-19;
    }
    const double w = r * r;
    const double s = polynomial(w, {-1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0,
                                    -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0});
    const double of_r = r + r * (w * s);
    const double beside = polynomial(w, {1.0 / 20922789888000.0, -1.0 / 87178291200.0, 1.0 / 479001600.0,
                                         -1.0 / 3628800.0, 1.0 / 40320.0, -1.0 / 720.0, 1.0 / 24.0, -1.0 / 2.0, 1.0});
    sin = turns % 2 == 0 ? of_r : beside;
    cos = turns % 2 == 0 ? beside : of_r;
    if (turns % 4 >= 2) sin = -sin;
    if (turns % 4 == 1 || turns % 4 == 2) cos = -cos;
    if (angle < 0.0f || (bits == 0 && __float_as_uint(angle) != 0)) sin = -sin;
    if (bits >= 0x7f800000u) sin = cos = __longlong_as_double(0x7ff8000000000000ll);
}

__device__ __forceinline__ double atan2(float y, float x) {
    const double pi = 3.141592653589793;
    const double a = (double)fabsf(y), b = (double)fabsf(x);
    const bool steep = a > b;
    const double least = steep ? b : a, greatest = steep ? a : b;
    // Both may be 0, or infinite.
    const double t = least == greatest ? (least == 0.0 ? 0.0 : 1.0) : least / greatest;
    const double tan_pi_8 = 0.41421356237309503;
    const double c = t < 0.198912367379658 ? 0.0 : t < 0.6681786379192989 ? tan_pi_8 : 1.0;
    const double of_c = t < 0.198912367379658 ? 0.0 : t < 0.6681786379192989 ? pi / 8.0 : pi / 4.0;
    const double z = (t - c) / (1.0 + t * c);
    const double w = z * z;
    const double series = polynomial(w, {1.0 / 21.0, -1.0 / 19.0, 1.0 / 17.0, -1.0 / 15.0, 1.0 / 13.0, -1.0 / 11.0,
                                         1.0 / 9.0, -1.0 / 7.0, 1.0 / 5.0, -1.0 / 3.0});
    double angle = of_c + (z + z * (w * series));
    if (steep) angle = pi / 2.0 - angle;
    if (__float_as_uint(x) >> 31 != 0) angle = pi - angle;
    return __float_as_uint(y) >> 31 != 0 ? -angle : angle;
}

}  // namespace elementary
