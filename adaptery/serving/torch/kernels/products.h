// Products of rows with rows, both as they lie in memory.

#pragma once

#include <algorithm>

#include "numbers.h"
#include "team.h"

constexpr int SIDE = 4;  // rows of each of two matrices that are multiplied at once

// The sums for each of N rows x with each of SIDE rows a, of `size` numbers.
template <int N>
void products(const float* const* a, const float* const* x, int64_t size, f32x16* to) {
    f32x16 added[N * SIDE] = {};
    for (int64_t i = 0; i < size; i += LANES)
        each<N>([&](auto n) INLINE {
            f32x16 v = load(x[n] + i, size - i);
            each<SIDE>([&](auto r) INLINE {
                added[n * SIDE + r] += load(a[r] + i, size - i) * v;
            });
        });
    std::copy_n(added, N * SIDE, to);
}

template <int N>
void products(const bf16* const* a, const bf16* const* x, int64_t size, f32x16* to) {
    f32x16 added[N * SIDE] = {};
    int64_t i = 0;
    for (; i + 2 * LANES <= size; i += 2 * LANES)
        each<N>([&](auto n) INLINE {
            Pairs v = load_pairs(x[n] + i);
            each<SIDE>([&](auto r) INLINE {
                f32x16& sum = added[n * SIDE + r];
                sum = add_products(sum, load_pairs(a[r] + i), v);
            });
        });
    for (; i < size; i += LANES)
        each<N>([&](auto n) INLINE {
            f32x16 v = load(x[n] + i, size - i);
            each<SIDE>([&](auto r) INLINE {
                added[n * SIDE + r] += load(a[r] + i, size - i) * v;
            });
        });
    std::copy_n(added, N * SIDE, to);
}

// Has memory read what is wanted next: of `count` numbers the part from begin/of to end/of.
template <class T>
void fetch(const T* at, int64_t count, int64_t begin, int64_t end, int64_t of) {
    const char* bytes = (const char*)at;
    int64_t last = count * sizeof(T) * end / of;
    for (int64_t i = count * sizeof(T) * begin / of; i < last; i += 64)
        __builtin_prefetch(bytes + i, 0, 2);
}

// y = x Wᵀ for a few rows, with W (outputs, inputs) read once, as it lies.
template <class T>
void plain_linear(const T* x, const T* w, T* y, int64_t rows, int64_t inputs, int64_t outputs) {
    together(true, [&](Team& team) {
        Share mine(team, outputs, SIDE);
        for (int64_t output = mine.begin; output < mine.end; output += SIDE) {
            const T *weights[SIDE], *some[SIDE];
            for (int r = 0; r < SIDE; r++) weights[r] = w + std::min(output + r, outputs - 1) * inputs;
            for (int64_t row = 0; row < rows; row += SIDE) {
                fetch(w + (output + SIDE) * inputs, SIDE * inputs, row, std::min(row + SIDE, rows), rows);
                for (int n = 0; n < SIDE; n++) some[n] = x + std::min(row + n, rows - 1) * inputs;
                f32x16 parts[SIDE * SIDE] = {};
                products<SIDE>(weights, some, inputs, parts);
                T scores[SIDE * SIDE];
                store(scores, sums(parts));
                int64_t there = std::min<int64_t>(SIDE, outputs - output);
                for (int n = 0; n < SIDE && row + n < rows; n++)
                    std::copy_n(scores + n * SIDE, there, y + (row + n) * outputs + output);
            }
        }
    });
}
