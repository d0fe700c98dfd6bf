// The base's products, y = x Wᵀ + b, with W in an order of our own.
//
// W (outputs, inputs) is cut into panels of 32 outputs. A panel lies in memory as it is read: two
// inputs of all its outputs, then the next two. So does a block of rows of x, which go through a
// panel at a time, their sums in registers. Each sum goes through the inputs in their order, whatever
// is computed beside it.

#pragma once

#include <vector>

#include "numbers.h"
#include "team.h"

constexpr int VECTORS = 2;
constexpr int PANEL = VECTORS * LANES;
constexpr int SINGLE = 8;  // rows up to which one block is as fast as two
constexpr int MOST = 12;  // rows at a time: 24 sums, and registers to spare for what is multiplied

// A layer's weights: `panels` as `pack_linear` makes them, `bias` (outputs) or null.
struct Layer {
    const bf16 *panels, *bias;
    int64_t inputs, outputs;
    int64_t count() const { return (outputs + PANEL - 1) / PANEL; }
    int64_t length() const { return (inputs + 1) / 2 * 2 * PANEL; }  // of a panel
};

// Some rows of x: from `first` on, at `packed` with two inputs of all of them, then the next two.
struct Rows {
    int64_t first, count;
    bf16* packed;
};

// The inputs from `begin`, which is even, to `end`, of `rows` of x.
inline void pack_rows(const Rows& rows, const bf16* x, int64_t stride, int64_t begin, int64_t end) {
    constexpr int64_t SOME = 2 * LANES;  // inputs: a line of memory
    for (int64_t some = begin; some < end; some += SOME)
        for (int64_t r = 0; r < rows.count; r++) {
            const bf16* from = x + (rows.first + r) * stride;
            bf16* to = rows.packed + some * rows.count + r * 2;
            int64_t i = some;
            for (; i + 2 <= std::min(some + SOME, end); i += 2, to += rows.count * 2)
                std::memcpy(to, from + i, 2 * sizeof(bf16));
            if (i < std::min(some + SOME, end)) to[0] = from[i], to[1] = {};
        }
}

// Puts W (outputs, inputs) into that order, at `to`, which is all zeros.
inline void pack_linear(const bf16* w, bf16* to, int64_t inputs, int64_t outputs) {
    Layer layer{to, nullptr, inputs, outputs};
    together(true, [&](Team& team) {
        Share mine(team, layer.count());
        std::vector<bf16> own(PANEL * inputs);  // read in one go: the pages of a file come in order
        for (int64_t panel = mine.begin; panel < mine.end; panel++) {
            bf16* at = to + panel * layer.length();
            int64_t first = panel * PANEL;
            if (first + PANEL <= outputs) {
                std::copy_n(w + first * inputs, PANEL * inputs, own.data());
                pack_rows({0, PANEL, at}, own.data(), inputs, 0, inputs);
            } else {
                for (int64_t i = 0; i < inputs; i++)
                    for (int64_t o = first; o < outputs; o++)
                        at[i / 2 * 2 * PANEL + (o - first) * 2 + i % 2] = w[o * inputs + i];
            }
        }
    });
}

// Numbers to be fetched meanwhile: for each input so many, from `at` on.
struct Soon {
    const bf16* at;
    int64_t step;
};

// ROWS rows through a panel.
template <int ROWS>
void multiply(const Layer& layer, int64_t panel, Soon soon, const Rows& rows, bf16* y) {
    f32x16 sums[ROWS * VECTORS] = {};
    const bf16 *w = layer.panels + panel * layer.length(), *x = rows.packed;
    for (int64_t i = 0; i < layer.inputs; i += 2, x += 2 * ROWS) {
        Pairs own[VECTORS];
        each<VECTORS>([&](auto v) INLINE {
            own[v] = load_pairs(w + i * PANEL + v * 2 * LANES);
        });
        __builtin_prefetch(soon.at + i * soon.step, 0, 2);
        each<ROWS>([&](auto r) INLINE {
            uint32_t pair;
            std::memcpy(&pair, x + r * 2, sizeof pair);
            Pairs both{u32x16{} + pair};
            each<VECTORS>([&](auto v) INLINE {
                f32x16& sum = sums[r * VECTORS + v];
                sum = add_products(sum, own[v], both);
            });
        });
    }
    each<ROWS * VECTORS>([&](auto number) INLINE {
        int64_t at = panel * PANEL + number % VECTORS * LANES, rest = layer.outputs - at;
        if (rest <= 0) return;
        f32x16 sum = sums[number];
        if (layer.bias) sum += load(layer.bias + at, rest);
        store(y + (rows.first + number / VECTORS) * layer.outputs + at, sum, rest);
    });
}

// So many rows, at most ROWS.
template <int ROWS>
void multiply_rows(const Layer& layer, int64_t panel, Soon soon, const Rows& rows, bf16* y) {
    if constexpr (ROWS > 1)
        if (rows.count < ROWS) return multiply_rows<ROWS - 1>(layer, panel, soon, rows, y);
    multiply<ROWS>(layer, panel, soon, rows, y);
}

// y (rows, outputs) of x (rows, inputs), whose rows are `stride` apart.
inline void linear(const Layer& layer, const bf16* x, int64_t stride, bf16* y, int64_t rows) {
    if (!rows) return;
    thread_local std::vector<bf16> room;
    thread_local std::vector<Rows> parts;
    int64_t width = (layer.inputs + 1) / 2 * 2;
    int64_t count = rows <= SINGLE ? 1 : std::max<int64_t>(2, (rows + MOST - 1) / MOST);
    room.resize(std::max<size_t>(room.size(), rows * width));
    parts.clear();
    for (int64_t n = 0; n < count; n++) {
        int64_t first = rows * n / count;
        parts.push_back({first, rows * (n + 1) / count - first, room.data() + first * width});
    }
    const std::vector<Rows>& all = parts;
    together(true, [&](Team& team) {
        Share inputs(team, layer.inputs, 2), panels(team, layer.count());
        for (const Rows& some : all) pack_rows(some, x, stride, inputs.begin, inputs.end);
        team.barrier();
        for (int64_t panel = panels.begin; panel < panels.end; panel++)
            for (size_t n = 0; n < all.size(); n++) {
                // Each of some blocks fetches its part of the next panel, so that memory is never
                // idle. One alone waits for memory anyway.
                Soon soon{layer.panels + panel * layer.length(), 0};
                if (int64_t step = PANEL / all.size(); step < PANEL && panel + 1 < panels.end)
                    soon = {soon.at + layer.length() + n * step * layer.inputs, step};
                multiply_rows<MOST>(layer, panel, soon, all[n], y);
            }
    });
}
