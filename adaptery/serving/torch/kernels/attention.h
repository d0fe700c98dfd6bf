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

// Keys of a tile.
struct Range {
    int64_t begin, end;
};

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
        for (int64_t j = 0; j < count; j += LANES) {
            int64_t some = std::min<int64_t>(LANES, count - j), from[LANES];
            for (int64_t k = 0; k < some; k++) from[k] = cache.at(table, first + j + k, group);
            for (int64_t i = 0; i < width; i += LANES) {
                f32x16 block[LANES] = {};
                for (int64_t k = 0; k < some; k++) {
                    block[k] = load(cache.keys + from[k] + i, cache.size - i);
                    store(&values[(j + k) * width + i],
                          load(cache.values + from[k] + i, cache.size - i));
                }
                transpose(block);
                for (int64_t r = 0; r < LANES; r++) store(&keys[(i + r) * TILE + j], block[r]);
            }
        }
    }

    // Q queries from `number` on look at the keys of the tile that each may see.
    template <int Q>
    void look(int64_t number, const Range* seen_by) {
        int64_t last = 0;
        for (int q = 0; q < Q; q++) last = std::max(last, seen_by[q].end);
        last > TILE / 2 ? look_at<Q, TILE / LANES>(number, seen_by)
                        : look_at<Q, TILE / LANES / 2>(number, seen_by);
    }

    void answer(int64_t number, T* out) const {
        for (int64_t i = 0; i < cache.size; i += LANES)
            store(out + i, load(&seen[number * width + i]) / totals[number], cache.size - i);
    }

  private:
    const Cache<T>& cache;
    int64_t width;
    float *keys;    // (width, TILE): the transpose, so that a score needs no sum over lanes
    float *values;  // (TILE, width)
    float *queries, *seen, *peaks, *totals;

    // Only the first N vectors of the tile have such keys. Two queries keep the processor busier
    // than one does: a sum has to wait for the one before it.
    template <int Q, int N>
    void look_at(int64_t number, const Range* seen_by) {
        f32x16 scores[Q][N] = {};
        const float* query = &queries[number * width];
        for (int64_t i = 0; i < cache.size; i++)
            each<N>([&](auto n) INLINE {
                f32x16 some = load(&keys[i * TILE + n * LANES]);
                each<Q>([&](auto q) INLINE { scores[q][n] += query[q * width + i] * some; });
            });
        float weights[Q][N * LANES], faded[Q];
        each<Q>([&](auto q) INLINE {
            faded[q] = weigh<N>(number + q, seen_by[q], scores[q], weights[q]);
        });
        Range all = seen_by[0];
        each<Q>([&](auto q) INLINE {
            all = {std::min(all.begin, seen_by[q].begin), std::max(all.end, seen_by[q].end)};
        });
        int64_t i = 0;
        for (; i + 4 * LANES <= width; i += 4 * LANES) mix<Q, N, 4>(number, i, all, weights, faded);
        for (; i < width; i += LANES) mix<Q, N, 1>(number, i, all, weights, faded);
    }

    // e^(score - largest so far), 0 for keys that are not seen. Returns by how much what was seen
    // before fades.
    template <int N>
    float weigh(int64_t number, Range seen_by, f32x16* scores, float* weights) {
        f32x16 highest = spread(peaks[number]), total{};
        each<N>([&](auto n) INLINE {
            i32x16 key = LANE + n.value * LANES;
            i32x16 there = (key >= (int32_t)seen_by.begin) & (key < (int32_t)seen_by.end);
            scores[n] = choose(there, scores[n], spread(-INFINITY));
            highest = larger(scores[n], highest);
        });
        float peak = largest(highest);
        float faded = peaks[number] == peak ? 1 : std::exp(peaks[number] - peak);
        each<N>([&](auto n) INLINE {
            f32x16 some = exponential(scores[n] - peak);
            store(weights + n * LANES, some);
            total += some;
        });
        peaks[number] = peak;
        totals[number] = totals[number] * faded + sum(total);
        return faded;
    }

    // Adds M vectors of the values, from `at` on, by their weights.
    template <int Q, int N, int M>
    void mix(int64_t number, int64_t at, Range range, const float (*weights)[N * LANES],
             const float* faded) {
        f32x16 mixed[Q][M];
        float* mine = &seen[number * width + at];
        each<Q>([&](auto q) INLINE {
            each<M>([&](auto m) INLINE { mixed[q][m] = load(mine + q * width + m * LANES) * faded[q]; });
        });
        for (int64_t j = range.begin; j < range.end; j++)
            each<M>([&](auto m) INLINE {
                f32x16 some = load(&values[j * width + at + m * LANES]);
                each<Q>([&](auto q) INLINE { mixed[q][m] += weights[q][j] * some; });
            });
        each<Q>([&](auto q) INLINE {
            each<M>([&](auto m) INLINE { store(mine + q * width + m * LANES, mixed[q][m]); });
        });
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
                auto seen_by = [&](int64_t n) {
                    int64_t self = start + n / shared;
                    int64_t begin = window ? std::max(tile, self - window + 1) : tile;
                    int64_t end = std::min(tile + TILE, self + 1);
                    return Range{begin - tile, std::max(begin, end) - tile};
                };
                for (int64_t n = 0; n < asking * shared; n += 2) {
                    Range both[] = {seen_by(n), seen_by(n + 1)};
                    bool more = n + 1 < asking * shared && both[1].begin < both[1].end;
                    if (more && both[0].begin < both[0].end)
                        looking.template look<2>(n, both);
                    else if (more)
                        looking.template look<1>(n + 1, both + 1);
                    else if (both[0].begin < both[0].end)
                        looking.template look<1>(n, both);
                }
            }
            for (int64_t n = 0; n < asking * shared; n++)
                looking.answer(n, out + ((own.row + first + n / shared) * heads +
                                         group * shared + n % shared) * size);
        }
    });
}
