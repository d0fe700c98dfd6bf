// What the torch engine computes on a CPU, for rows of tokens that lie one after another.
//
// All is there for float32 and for bfloat16. Sums are in float32, in an order that depends on
// nothing but the row itself: an answer is the same whoever else is in the batch, and however many
// threads compute it.

#include "adapters.h"
#include "attention.h"
#include "linear.h"

namespace {

constexpr int64_t GRAIN = 1 << 15;  // numbers: for fewer, a second thread costs more than it saves

// `call` each row, of so many numbers.
template <class F>
void by_row(int64_t rows, int64_t numbers, F call) {
    together(rows * numbers > GRAIN, [&](Team& team) {
        Share mine(team, rows);
        for (int64_t row = mine.begin; row < mine.end; row++) call(row);
    });
}

// y = w · x / √(mean x² + ε), rounded before it is multiplied by w, as transformers does.
template <class T>
void rms_norm(const T* x, const T* w, T* y, int64_t rows, int64_t size, double epsilon) {
    by_row(rows, size, [&](int64_t row) {
        const T* from = x + row * size;
        T* to = y + row * size;
        f32x16 squares{};
        for (int64_t i = 0; i < size; i += LANES) {
            f32x16 v = load(from + i, size - i);
            squares += v * v;
        }
        float factor = 1.0f / std::sqrt(sum(squares) / size + (float)epsilon);
        for (int64_t i = 0; i < size; i += LANES) {
            T normed[LANES];
            store(normed, load(from + i, size - i) * factor);
            store(to + i, load(normed) * load(w + i, size - i), size - i);
        }
    });
}

enum Activation { SILU, GELU_TANH };

// activation(gate) · up, where each row holds gate and then up.
template <class T>
void gated(const T* x, T* y, int64_t rows, int64_t size, int64_t activation) {
    by_row(rows, 2 * size, [&](int64_t row) {
        const T *gates = x + row * 2 * size, *ups = gates + size;
        for (int64_t i = 0; i < size; i += LANES) {
            f32x16 g = load(gates + i, size - i), up = load(ups + i, size - i);
            f32x16 u = g;  // gelu: x/2 (1 + tanh t) = x / (1 + e^-2t)
            if (activation == GELU_TANH) u = 1.5957691216f * (g + 0.044715f * g * g * g);
            T rounded[LANES];
            store(rounded, g / (1.0f + exponential(-u)));
            store(y + row * size + i, load(rounded) * up, size - i);
        }
    });
}

// Turns the halves of each head by the angles of the token's position.
// x: (rows, heads, size), its rows `stride` apart. cosine, sine: (rows, size). y: contiguous.
template <class T>
void rotate(const T* x, int64_t stride, const T* cosine, const T* sine, T* y, int64_t rows,
            int64_t heads, int64_t size) {
    int64_t half = size / 2;
    by_row(rows, heads * size, [&](int64_t row) {
        const T *c = cosine + row * size, *s = sine + row * size;
        for (int64_t head = 0; head < heads; head++) {
            const T* from = x + row * stride + head * size;
            T* to = y + (row * heads + head) * size;
            for (int64_t i = 0; i < half; i += LANES) {
                int64_t n = half - i;
                f32x16 a = load(from + i, n), b = load(from + half + i, n);
                store(to + i, a * load(c + i, n) - b * load(s + i, n), n);
                store(to + half + i, b * load(c + half + i, n) + a * load(s + half + i, n), n);
            }
        }
    });
}

}  // namespace

#define EXPORT(T, NAME)                                                                          \
    extern "C" {                                                                                 \
    void rms_norm_##NAME(const T* x, const T* w, T* y, int64_t rows, int64_t size, double eps) { \
        rms_norm(x, w, y, rows, size, eps);                                                      \
    }                                                                                            \
    void gated_##NAME(const T* x, T* y, int64_t rows, int64_t size, int64_t activation) {        \
        gated(x, y, rows, size, activation);                                                     \
    }                                                                                            \
    void rotate_##NAME(const T* x, int64_t stride, const T* cosine, const T* sine, T* y,         \
                       int64_t rows, int64_t heads, int64_t size) {                              \
        rotate(x, stride, cosine, sine, y, rows, heads, size);                                   \
    }                                                                                            \
    void attend_##NAME(const T* query, const T* key, const T* value, int64_t query_stride,       \
                       int64_t key_stride, int64_t value_stride, T* keys, T* values, T* out,     \
                       int64_t heads, int64_t groups, int64_t size, int64_t block,               \
                       const int64_t* pieces, int64_t count, const int32_t* tables,              \
                       double scale, int64_t window) {                                           \
        attend(query, key, value, query_stride, key_stride, value_stride, keys, values, out,     \
               heads, groups, size, block, pieces, count, tables, scale, window);                \
    }                                                                                            \
    void plain_linear_##NAME(const T* x, const T* w, T* y, int64_t rows, int64_t inputs,         \
                             int64_t outputs) {                                                  \
        plain_linear(x, w, y, rows, inputs, outputs);                                            \
    }                                                                                            \
    void update_##NAME(const T* x, int64_t x_stride, T* y, int64_t y_stride, int64_t inputs,     \
                       const int64_t* columns, int64_t members, int64_t layer,                   \
                       const int64_t* segments, int64_t count, const int32_t* rows) {            \
        update(x, x_stride, y, y_stride, inputs, columns, members, layer, segments, count,       \
               rows);                                                                            \
    }                                                                                            \
    void pack_##NAME(const T* b, T* to, int64_t outputs, int64_t rank) {                         \
        pack(b, to, outputs, rank);                                                              \
    }                                                                                            \
    }

EXPORT(float, f32)
EXPORT(bf16, bf16)

extern "C" {
// Whether `linear` is the fastest here. Processors with AMX have better than it.
int64_t multiplies() {
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
    return 1;
#else
    return 0;
#endif
}

// Have so many threads of our own, this one among them.
void threads(int64_t count) {
    if (!own_pool() || own_pool()->threads != count) own_pool() = new Pool(count);
}

void pack_linear_bf16(const bf16* w, bf16* to, int64_t inputs, int64_t outputs) {
    pack_linear(w, to, inputs, outputs);
}

void linear_bf16(const bf16* x, int64_t stride, const bf16* panels, const bf16* bias, bf16* y,
                 int64_t rows, int64_t inputs, int64_t outputs) {
    linear({panels, bias, inputs, outputs}, x, stride, y, rows);
}
}
