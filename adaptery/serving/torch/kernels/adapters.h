// What adapters add: y += (x Aᵀ) Bᵀ, for each row by its own.

#pragma once

#include <vector>

#include "products.h"

// A and B of one layer in one adapter. a: (rank, inputs). b: in the order in which it is read, for
// sixteen outputs after the other all ranks, in bfloat16 two of them side by side:
// (⌈outputs/16⌉, ⌈rank/2⌉, 16, 2), in float32 (⌈outputs/16⌉, rank, 16).
template <class T>
struct Factors {
    int64_t rank;
    const T *a, *b;
};

// Rows that one adapter answers.
struct Segment {
    int64_t first, count;    // of the list of rows
    const int64_t* factors;  // of all layers, in their order
};

// One adapter's update of one layer.
template <class T>
struct Job {
    const int32_t* rows;
    int64_t count, begin, end;  // columns of the output
    Factors<T> factors;
    T* inner;  // (count, width): what A makes of the rows
    int64_t width;
};

// inner = x Aᵀ for N rows from `row` on and SIDE ranks from `rank` on. Where there are fewer, the
// last is computed again.
template <int N, class T>
void shrink(const Job<T>& job, int64_t row, int64_t rank, const T* x, int64_t stride,
            int64_t inputs) {
    const T *a[SIDE], *rows[N];
    for (int r = 0; r < SIDE; r++)
        a[r] = job.factors.a + std::min(rank + r, job.factors.rank - 1) * inputs;
    for (int n = 0; n < N; n++)
        rows[n] = x + job.rows[std::min(row + n, job.count - 1)] * stride;
    f32x16 parts[SIDE * SIDE] = {};
    products<N>(a, rows, inputs, parts);
    T inner[SIDE * SIDE];
    store(inner, sums(parts));
    int64_t ranks = std::min<int64_t>(SIDE, job.factors.rank - rank);
    for (int n = 0; n < N && row + n < job.count; n++)
        std::copy_n(inner + n * SIDE, ranks, job.inner + (row + n) * job.width + rank);
}

// What B makes of the ranks, added up for sixteen columns from `column` on, which is their multiple.
template <int N>
void expand(const Job<float>& job, const float* const* inner, int64_t column, f32x16* sums) {
    const float* b = job.factors.b + column * job.factors.rank;
    for (int64_t r = 0; r < job.factors.rank; r++) {
        f32x16 some = load(b + r * LANES);
        each<N>([&](auto n) INLINE { sums[n] += inner[n][r] * some; });
    }
}

template <int N>
void expand(const Job<bf16>& job, const bf16* const* inner, int64_t column, f32x16* sums) {
    const bf16* b = job.factors.b + column * job.width;
    for (int64_t r = 0; r < job.width; r += 2) {
        Pairs some = load_pairs(b + r * LANES);
        each<N>([&](auto n) INLINE {
            uint32_t pair;
            std::memcpy(&pair, inner[n] + r, sizeof pair);
            sums[n] = add_products(sums[n], some, Pairs{u32x16{} + pair});
        });
    }
}

// y += inner Bᵀ for N rows from `row` on and the columns from `begin` to `end` of the layer's own.
template <int N, class T>
void grow(const Job<T>& job, int64_t row, int64_t begin, int64_t end, T* y, int64_t stride) {
    const T* inner[N];
    for (int n = 0; n < N; n++) inner[n] = job.inner + std::min(row + n, job.count - 1) * job.width;
    for (int64_t column = begin; column < end; column += LANES) {
        f32x16 sums[N] = {};
        expand<N>(job, inner, column, sums);
        for (int n = 0; n < N && row + n < job.count; n++) {
            T* to = y + job.rows[row + n] * stride + job.begin + column;
            store(to, load(to, end - column) + sums[n], end - column);
        }
    }
}

template <class T, class F>
void by_rows(const Job<T>& job, F call) {
    int64_t row = 0;
    for (; job.count - row > 2; row += SIDE) call(std::integral_constant<int, SIDE>(), row);
    if (job.count - row == 2) call(std::integral_constant<int, 2>(), row);
    if (job.count - row == 1) call(std::integral_constant<int, 1>(), row);
}

// y += (x Aᵀ) Bᵀ for the rows of each segment with the factors of its adapter.
// x: (tokens, inputs), y: (tokens, outputs of `members` layers side by side, from columns[i] to
// columns[i + 1]); their factors are those from the number `layer` on.
template <class T>
void update(const T* x, int64_t x_stride, T* y, int64_t y_stride, int64_t inputs,
            const int64_t* columns, int64_t members, int64_t layer, const int64_t* segments,
            int64_t count, const int32_t* rows) {
    thread_local std::vector<Job<T>> jobs;
    thread_local std::vector<T> room;
    jobs.clear();
    int64_t size = 0;
    for (int64_t s = 0; s < count; s++) {
        const Segment& segment = ((const Segment*)segments)[s];
        for (int64_t m = 0; m < members; m++) {
            const Factors<T>& factors = ((const Factors<T>*)segment.factors)[layer + m];
            if (!factors.rank) continue;
            int64_t width = (factors.rank + 1) / 2 * 2;
            jobs.push_back({rows + segment.first, segment.count, columns[m], columns[m + 1],
                            factors, nullptr, width});
            size += segment.count * width;
        }
    }
    if (jobs.empty()) return;
    room.assign(size, T{});
    T* free = room.data();
    int64_t blocks = 0;
    for (Job<T>& job : jobs) {
        job.inner = free;
        free += job.count * job.width;
        blocks += (job.factors.rank + SIDE - 1) / SIDE;
    }
    const std::vector<Job<T>>& all = jobs;
    together(true, [&](Team& team) {
        Share mine(team, blocks);
        int64_t number = 0;
        for (const Job<T>& job : all)
            for (int64_t rank = 0; rank < job.factors.rank; rank += SIDE, number++)
                if (mine.begin <= number && number < mine.end)
                    by_rows(job, [&](auto n, int64_t row) {
                        shrink<n.value>(job, row, rank, x, x_stride, inputs);
                    });
        team.barrier();
        for (const Job<T>& job : all) {
            Share part(team, job.end - job.begin, LANES);
            by_rows(job, [&](auto n, int64_t row) {
                grow<n.value>(job, row, part.begin, part.end, y, y_stride);
            });
        }
    });
}

// b (outputs, rank) as `Factors` has it, at `to`, which is all zeros where b has nothing.
inline void pack(const float* b, float* to, int64_t outputs, int64_t rank) {
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t r = 0; r < rank; r++)
            to[o / LANES * LANES * rank + r * LANES + o % LANES] = b[o * rank + r];
}

inline void pack(const bf16* b, bf16* to, int64_t outputs, int64_t rank) {
    int64_t width = (rank + 1) / 2 * 2;
    for (int64_t o = 0; o < outputs; o++) {
        bf16* at = to + o / LANES * LANES * width + o % LANES * 2;
        for (int64_t r = 0; r < rank; r++) at[r / 2 * 2 * LANES + r % 2] = b[o * rank + r];
    }
}
