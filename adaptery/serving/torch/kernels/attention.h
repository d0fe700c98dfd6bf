// Attention over keys and values that lie in blocks, each sequence's wherever there was room.

#pragma once

#include <cmath>
#include <vector>

#include "numbers.h"
#include "team.h"

// Keys and values in blocks of `block` tokens, (blocks, block, groups, size).
template <class T>
struct Cache {
    T *keys, *values;
    int64_t block, groups, size;
    int64_t at(const int32_t* table, int64_t position, int64_t group) const {
        return ((table[position / block] * block + position % block) * groups + group) * size;
    }
};

// New tokens `start`, `start` + 1, … of one sequence, in the rows from `row` on.
struct Piece {
    int64_t row, count, start, table;
};

constexpr int64_t TILE = 64;   // keys that are looked at together
constexpr int64_t CHUNK = 16;  // tokens that look at them together

// Softmax attention of some tokens' heads in one group, tile after tile (Dao et al. 2022,
// FlashAttention): the sum so far is scaled down whenever a larger score is met.
template <class T>
class Looking {
  public:
    Looking(const Cache<T>& cache, int64_t most)
        : cache(cache), width((cache.size + LANES - 1) / LANES * LANES) {
        thread_local std::vector<float> room;  // kept: its pages would be new in each layer
        room.resize(std::max<size_t>(room.size(), 2 * (most + TILE) * width + 2 * most));
        keys = room.data();
        values = keys + TILE * width;
        queries = values + TILE * width;
        seen = queries + most * width;
        peaks = seen + most * width;
        totals = peaks + most;
    }

    void ask(int64_t number, const T* query, float scale) {
        for (int64_t i = 0; i < width; i += LANES)
            store(&queries[number * width + i], load(query + i, cache.size - i) * scale);
        std::fill_n(&seen[number * width], width, 0.0f);
        peaks[number] = -INFINITY;
        totals[number] = 0;
    }

    void fetch(const int32_t* table, int64_t group, int64_t first, int64_t count) {
        for (int64_t j = 0; j < count; j++) {
            int64_t from = cache.at(table, first + j, group);
            for (int64_t i = 0; i < width; i += LANES) {
                store(&keys[j * width + i], load(cache.keys + from + i, cache.size - i));
                store(&values[j * width + i], load(cache.values + from + i, cache.size - i));
            }
        }
    }

    // The keys from `begin` to `end` of the tile.
    void look(int64_t number, int64_t begin, int64_t end) {
        float weights[TILE + LANES];
        float peak = score(number, begin, end, weights);
        float faded = peaks[number] == peak ? 1 : std::exp(peaks[number] - peak);
        f32x16 total{};
        for (int64_t j = begin; j < end; j += LANES) {
            f32x16 some = exponential(load(weights + j) - peak);
            store(weights + j, some);
            total += some;
        }
        peaks[number] = peak;
        totals[number] = totals[number] * faded + sum(total);
        for (int64_t i = 0; i < width; i += 4 * LANES)
            if (width - i < 4 * LANES)
                for (int64_t k = i; k < width; k += LANES) mix<1>(number, k, begin, end, weights, faded);
            else
                mix<4>(number, i, begin, end, weights, faded);
    }

    void answer(int64_t number, T* out) const {
        for (int64_t i = 0; i < cache.size; i += LANES)
            store(out + i, load(&seen[number * width + i]) / totals[number], cache.size - i);
    }

  private:
    const Cache<T>& cache;
    int64_t width;
    float *keys, *values, *queries, *seen, *peaks, *totals;

    // The products with the keys, -inf behind the last; and the largest so far, NaN if one is.
    float score(int64_t number, int64_t begin, int64_t end, float* scores) const {
        const float* query = &queries[number * width];
        f32x16 highest = spread(peaks[number]);
        for (int64_t j = begin; j < end; j += LANES) {
            f32x16 products[LANES] = {};
            for (int64_t i = 0; i < width; i += LANES) {
                f32x16 q = load(query + i);
                each<LANES>([&](auto k) INLINE {
                    products[k] += q * load(&keys[std::min<int64_t>(j + k, TILE - 1) * width + i]);
                });
            }
            i32x16 there = LANE < (int32_t)(end - j);
            f32x16 some = choose(there, sums(products), spread(-INFINITY));
            store(scores + j, some);
            highest = choose((some > highest) | (some != some), some, highest);
        }
        float lanes[LANES], peak = highest[0];
        store(lanes, highest);
        for (float one : lanes) peak = one > peak || one != one ? one : peak;
        return peak;
    }

    template <int N>
    void mix(int64_t number, int64_t at, int64_t begin, int64_t end, const float* weights,
             float faded) {
        f32x16 mixed[N];
        float* mine = &seen[number * width + at];
        each<N>([&](auto n) INLINE { mixed[n] = load(mine + n * LANES) * faded; });
        for (int64_t j = begin; j < end; j++)
            each<N>([&](auto n) INLINE {
                mixed[n] += weights[j] * load(&values[j * width + at + n * LANES]);
            });
        each<N>([&](auto n) INLINE { store(mine + n * LANES, mixed[n]); });
    }
};

// Puts the new keys and values into the cache, then lets every token look at its own past, at most
// `window` tokens of it with itself, or at all of it if that is 0.
// query: (rows, heads, size); key, value: (rows, groups, size), each with its stride between rows.
template <class T>
void attend(const T* query, const T* key, const T* value, int64_t query_stride, int64_t key_stride,
            int64_t value_stride, T* keys, T* values, T* out, int64_t heads, int64_t groups, int64_t size, int64_t block,
            const int64_t* pieces, int64_t count, const int32_t* tables, double scale,
            int64_t window) {
    Cache<T> cache{keys, values, block, groups, size};
    const Piece* piece = (const Piece*)pieces;
    std::vector<int64_t> tasks;  // number of the piece, first token in it
    for (int64_t p = 0; p < count; p++)
        for (int64_t t = 0; t < piece[p].count; t += CHUNK) tasks.insert(tasks.end(), {p, t});
    int64_t shared = heads / groups, most = (int64_t)tasks.size() / 2 * groups;
    std::atomic<int64_t> next{0};
    together(true, [&](Team& team) {
        Share mine(team, count);
        for (int64_t p = mine.begin; p < mine.end; p++)
            for (int64_t t = 0; t < piece[p].count; t++) {
                int64_t row = piece[p].row + t;
                int64_t to = cache.at(tables + piece[p].table, piece[p].start + t, 0);
                std::memcpy(keys + to, key + row * key_stride, groups * size * sizeof(T));
                std::memcpy(values + to, value + row * value_stride, groups * size * sizeof(T));
            }
        team.barrier();
        Looking<T> looking(cache, CHUNK * shared);
        for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < most;) {
            const Piece& own = piece[tasks[task / groups * 2]];
            int64_t first = tasks[task / groups * 2 + 1], group = task % groups;
            int64_t asking = std::min(CHUNK, own.count - first), start = own.start + first;
            for (int64_t n = 0; n < asking * shared; n++)
                looking.ask(n, query + (own.row + first + n / shared) * query_stride +
                                   (group * shared + n % shared) * size, (float)scale);
            int64_t oldest = window ? std::max<int64_t>(0, start - window + 1) : 0;
            for (int64_t tile = oldest / TILE * TILE; tile < start + asking; tile += TILE) {
                looking.fetch(tables + own.table, group, tile, std::min(TILE, start + asking - tile));
                for (int64_t n = 0; n < asking * shared; n++) {
                    int64_t self = start + n / shared;
                    int64_t begin = window ? std::max(tile, self - window + 1) : tile;
                    int64_t end = std::min(tile + TILE, self + 1);
                    if (begin < end) looking.look(n, begin - tile, end - tile);
                }
            }
            for (int64_t n = 0; n < asking * shared; n++)
                looking.answer(n, out + ((own.row + first + n / shared) * heads +
                                         group * shared + n % shared) * size);
        }
    });
}
