// Sixteen numbers at a time, in float32 whatever they are stored as.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

using f32x16 = float __attribute__((vector_size(64)));
using u32x16 = uint32_t __attribute__((vector_size(64)));
using i32x16 = int32_t __attribute__((vector_size(64)));
using u16x16 = uint16_t __attribute__((vector_size(32)));

constexpr int LANES = 16;

struct bf16 {
    uint16_t bits;
};

// f(0), f(1), … f(N - 1), written out: what it adds up in an array then stays in registers. The
// compiler unrolls loops as well, but not reliably.
template <int N, class F>
__attribute__((always_inline)) inline void each(F f) {
    [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
        (f(std::integral_constant<int, I>()), ...);
    }(std::make_integer_sequence<int, N>());
}

#define INLINE __attribute__((always_inline))

inline f32x16 spread(float x) { return f32x16{} + x; }

inline f32x16 load(const float* at) {
    f32x16 v;
    std::memcpy(&v, at, sizeof v);
    return v;
}

inline f32x16 load(const bf16* at) {
    u16x16 raw;
    std::memcpy(&raw, at, sizeof raw);
    return (f32x16)(__builtin_convertvector(raw, u32x16) << 16);
}

inline void store(float* at, f32x16 v) { std::memcpy(at, &v, sizeof v); }

// Rounds to nearest, ties to even; NaN stays NaN.
inline void store(bf16* at, f32x16 v) {
#ifdef __AVX512BF16__
    __m256bh result = _mm512_cvtneps_pbh((__m512)v);
#else
    u32x16 bits = (u32x16)v;
    u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    u32x16 nan = (u32x16)(v != v);
    u16x16 result = __builtin_convertvector((rounded & ~nan) | (0x7fc0 & nan), u16x16);
#endif
    std::memcpy(at, &result, sizeof result);
}

// The first `count` of sixteen; what lies behind them in memory is not touched.
template <class T>
f32x16 load(const T* at, int64_t count) {
    if (count >= LANES) return load(at);
    T some[LANES] = {};
    std::memcpy(some, at, count * sizeof(T));
    return load(some);
}

template <class T>
void store(T* at, f32x16 v, int64_t count) {
    if (count >= LANES) return store(at, v);
    T some[LANES];
    store(some, v);
    std::memcpy(at, some, count * sizeof(T));
}

constexpr i32x16 LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Two vectors, each folded once: lanes that belong to the first in the lower half of each group.
inline f32x16 fold(f32x16 a, f32x16 b, i32x16 lower, int half) {
    return __builtin_shuffle(a, b, lower) + __builtin_shuffle(a, b, lower + half);
}

constexpr i32x16 EIGHTS = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
constexpr i32x16 FOURS = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
constexpr i32x16 TWOS = {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29};
constexpr i32x16 ONES = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};

// The sum of each of sixteen vectors. A sum is always the same tree of additions, whether it is
// computed here or alone, so that it does not depend on what is computed beside it.
inline f32x16 sums(const f32x16* v) {
    f32x16 a[8];
    for (int i = 0; i < 8; i++) a[i] = fold(v[2 * i], v[2 * i + 1], EIGHTS, 8);
    for (int i = 0; i < 4; i++) a[i] = fold(a[2 * i], a[2 * i + 1], FOURS, 4);
    for (int i = 0; i < 2; i++) a[i] = fold(a[2 * i], a[2 * i + 1], TWOS, 2);
    return fold(a[0], a[1], ONES, 1);
}

inline float sum(f32x16 v) {
    v = fold(v, v, EIGHTS, 8);
    v = fold(v, v, FOURS, 4);
    v = fold(v, v, TWOS, 2);
    return fold(v, v, ONES, 1)[0];
}

// Turns sixteen rows into columns: blocks of 8 × 8 change places, then in each those of 4 × 4, …
inline void transpose(f32x16* rows) {
    each<4>([&](auto stage) INLINE {
        constexpr int HALF = 8 >> stage.value;
        constexpr i32x16 other = (LANE & HALF) != 0;  // all ones where the other row's lanes go
        constexpr i32x16 upper = LANE + (other & (LANES - HALF));
        constexpr i32x16 lower = LANE + HALF + (other & (LANES - HALF));
        for (int r = 0; r < LANES; r++)
            if (!(r & HALF)) {
                f32x16 a = rows[r], b = rows[r + HALF];
                rows[r] = __builtin_shuffle(a, b, upper);
                rows[r + HALF] = __builtin_shuffle(a, b, lower);
            }
    });
}

inline f32x16 choose(i32x16 where, f32x16 yes, f32x16 no) { return where ? yes : no; }

// NaN, if one of the two is.
inline f32x16 larger(f32x16 a, f32x16 b) { return choose((a > b) | (a != a), a, b); }

inline float largest(f32x16 v) {
    v = larger(v, __builtin_shuffle(v, LANE ^ 8));
    v = larger(v, __builtin_shuffle(v, LANE ^ 4));
    v = larger(v, __builtin_shuffle(v, LANE ^ 2));
    return larger(v, __builtin_shuffle(v, LANE ^ 1))[0];
}

// e^x to about 2 units in the last place; 0 below -87. NaN stays NaN, as its comparisons are false.
inline f32x16 exponential(f32x16 x) {
    i32x16 low = x < -87.0f;
    x = choose(x > 88.0f, spread(88.0f), choose(low, spread(-87.0f), x));
    f32x16 shifted = x * 1.44269504f + 12582912.0f;  // rounds to an integer in the low bits
    i32x16 power = (i32x16)shifted - 0x4b400000;
    f32x16 n = shifted - 12582912.0f;
    f32x16 r = x - n * 0.693359375f + n * 2.12194440e-4f;
    f32x16 p = spread(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    f32x16 scale = (f32x16)((power + 127) << 23);
    return choose(low, spread(0.0f), p * scale);
}

// Two numbers of a thirty-two bit lane: products of pairs, which bfloat16 processors add at once.
struct Pairs {
    u32x16 bits;
};

inline Pairs load_pairs(const bf16* at) {
    Pairs v;
    std::memcpy(&v.bits, at, sizeof v.bits);
    return v;
}

inline f32x16 add_products(f32x16 to, Pairs a, Pairs b) {
#ifdef __AVX512BF16__
    return (f32x16)_mm512_dpbf16_ps((__m512)to, (__m512bh)a.bits, (__m512bh)b.bits);
#else
    to += (f32x16)(a.bits << 16) * (f32x16)(b.bits << 16);
    return to + (f32x16)(a.bits & 0xffff0000) * (f32x16)(b.bits & 0xffff0000);
#endif
}
