/* Order statistics, sums and inner products of float32 rows by vector instructions: the fast side of sorting.py,
   blocks.py and gram.py, whose plain routes stand beside it. Built where there is gcc for x86-64 Linux; `level` says
   what may be called.

   All values are finite. `stride` is the number of values from one row to the next. */

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define AVX2 __attribute__((target("avx2,fma")))
#define AVX2_INLINE static inline __attribute__((target("avx2,fma"), always_inline))
#define AVX512 __attribute__((target("avx512f,avx512dq")))
#define AVX512_INLINE static inline __attribute__((target("avx512f,avx512dq"), always_inline))

/* What this processor can do: 0 nothing of this, 1 order statistics and sums, 2 inner products too. */
int level(void) {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") ? 2 : 1;
}

/* ---- order statistics

   A float's bits, turned round if it is negative, are an integer that grows with the float: its key. The key of a
   given rank is found bit by bit from the top, in 16 columns at a time: a bit is set if no more than `rank` keys are
   below what has it set. First in the upper 16 bits of the keys; in columns where these leave several candidates, in
   the lower 16 bits of those. One more look at the floats gives the value, and the next larger one. */

enum { LANES = 16, STRIP = 64, GROUPS = STRIP / LANES, DENORMALS_ZERO = 0x40 };

/* Of 16 columns each. A range is least ... least + spread, and `below` says how many keys are less. */
typedef int16_t Shorts __attribute__((vector_size(2 * LANES)));
typedef struct { __m256 half[2]; } Floats;
typedef struct { Shorts least, spread, below; } Range;
typedef struct { Floats value, next; } Ranked;

AVX2_INLINE Shorts all(int value) { return (Shorts)_mm256_set1_epi16((short)value); }

AVX2_INLINE Shorts choose(Shorts mask, Shorts yes, Shorts no) {
    return (Shorts)_mm256_blendv_epi8((__m256i)no, (__m256i)yes, (__m256i)mask);
}

AVX2_INLINE int everywhere(Shorts mask) { return _mm256_movemask_epi8((__m256i)mask) == -1; }

/* Two times eight integers that fit, as shorts in their order. */
AVX2_INLINE Shorts packed(__m256i first, __m256i second) {
    return (Shorts)_mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0xd8);
}

AVX2_INLINE Shorts upper_keys(const __m256i bits[2]) {
    Shorts upper = packed(_mm256_srai_epi32(bits[0], 16), _mm256_srai_epi32(bits[1], 16));
    return upper ^ ((upper >> 15) & all(INT16_MAX));
}

/* The lower halves of the keys, less 2^15 so that shorts are ordered as they are. */
AVX2_INLINE Shorts lower_keys(const __m256i bits[2]) {
    __m256i lower[2];
    for (int k = 0; k < 2; k++) {
        __m256i keys = _mm256_xor_si256(bits[k], _mm256_srai_epi32(bits[k], 31));
        lower[k] = _mm256_srai_epi32(_mm256_slli_epi32(keys, 16), 16);
    }
    return packed(lower[0], lower[1]) ^ all(INT16_MIN);
}

/* How many of the n keys of each column, `step` apart, are less than its pivot. */
AVX2_INLINE Shorts count_below(const Shorts *keys, ptrdiff_t step, int n, Shorts pivot) {
    Shorts a = all(0), b = a, c = a, d = a;
    int i = 0;
    for (; i + 4 <= n; i += 4, keys += 4 * step) {
        a -= keys[0] < pivot;
        b -= keys[step] < pivot;
        c -= keys[2 * step] < pivot;
        d -= keys[3 * step] < pivot;
    }
    for (; i < n; i++, keys += step) a -= keys[0] < pivot;
    return a + b + (c + d);
}

/* Narrow the candidates for the key of each column's rank until one is left in every column, which is returned, or
   all that are left are equal. */
AVX2_INLINE int narrow(const Shorts *keys, ptrdiff_t step, int n, Shorts rank, Range *range) {
    Shorts least = all(INT16_MIN), below = all(0), upto = all(n);
    int bit = 16, alone = 0;
    while (bit > 0 && !alone) {
        Shorts pivot = least ^ all(1 << --bit), less = count_below(keys, step, n, pivot), reached = less <= rank;
        least = choose(reached, pivot, least);
        below = choose(reached, less, below);
        upto = choose(reached, upto, less);
        alone = everywhere(upto - below == all(1));
    }
    *range = (Range){least, all((1 << bit) - 1), below};
    return alone;
}

/* The floats with these halves of keys, or the largest below; none is -0, and none is more than infinity. */
AVX2_INLINE Floats floats(Shorts upper, Shorts lower) {
    Floats result;
    for (int k = 0; k < 2; k++) {
        __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256((__m256i)upper, k));
        __m256i low = _mm256_cvtepu16_epi32(_mm256_extracti128_si256((__m256i)lower, k));
        __m256i key = _mm256_or_si256(_mm256_slli_epi32(high, 16), low), minus_zero = _mm256_set1_epi32(-1);
        key = _mm256_add_epi32(key, _mm256_cmpeq_epi32(key, minus_zero));
        key = _mm256_min_epi32(key, _mm256_castps_si256(_mm256_set1_ps(__builtin_inff())));
        key = _mm256_xor_si256(key, _mm256_srli_epi32(_mm256_srai_epi32(key, 31), 1));
        result.half[k] = _mm256_castsi256_ps(key);
    }
    return result;
}

/* The values of rank `rank`, counted from 0, and of the next rank, in 16 columns of a strip. */
AVX2_INLINE Ranked ranked(const float *strip, const Shorts *keys, Shorts *fine, int n, int rank) {
    Range high, low = {all(0), all(-1), all(0)};
    if (!narrow(keys, GROUPS, n, all(rank), &high)) {
        for (int i = 0; i < n; i++) {
            Shorts candidate = keys[i * GROUPS] == high.least;
            fine[i] = choose(candidate, lower_keys((const __m256i *)(strip + i * STRIP)), all(INT16_MAX));
        }
        narrow(fine, 1, n, all(rank) - high.below, &low);
        low.least ^= all(INT16_MIN);
    }
    Floats top = floats(high.least | high.spread, low.least | low.spread);
    __m256 smallest = _mm256_set1_ps(-__builtin_inff()), largest = _mm256_set1_ps(__builtin_inff());
    Ranked result;
    for (int k = 0; k < 2; k++) {
        __m256 value = smallest, next = largest;
        __m256i upto = _mm256_setzero_si256();
        for (int i = 0; i < n; i++) {
            __m256 row = _mm256_load_ps(strip + i * STRIP + 8 * k);
            __m256 within = _mm256_cmp_ps(row, top.half[k], _CMP_LE_OQ);
            value = _mm256_max_ps(value, _mm256_blendv_ps(smallest, row, within));
            next = _mm256_min_ps(next, _mm256_blendv_ps(row, largest, within));
            upto = _mm256_sub_epi32(upto, _mm256_castps_si256(within));
        }
        __m256 several = _mm256_castsi256_ps(_mm256_cmpgt_epi32(upto, _mm256_set1_epi32(rank + 1)));
        result.value.half[k] = value;
        result.next.half[k] = _mm256_blendv_ps(next, value, several);
    }
    return result;
}

/* Copy a strip of columns, -0 as 0, and note the upper halves of its keys. */
AVX2_INLINE void take(const float *x, ptrdiff_t stride, int n, float *strip, Shorts *keys) {
    for (int i = 0; i < n; i++, x += stride)
        for (int g = 0; g < GROUPS; g++, strip += LANES) {
            _mm_prefetch((const char *)(x + STRIP + g * LANES), _MM_HINT_T0);
            for (int k = 0; k < LANES; k += 8)
                _mm256_store_ps(strip + k, _mm256_add_ps(_mm256_loadu_ps(x + g * LANES + k), _mm256_setzero_ps()));
            *keys++ = upper_keys((const __m256i *)strip);
        }
}

AVX2_INLINE __m256d doubles(__m256 values, int half) {
    return _mm256_cvtps_pd(half ? _mm256_extractf128_ps(values, 1) : _mm256_castps256_ps128(values));
}

/* The mean of the middle values of 16 columns: two of an even number of values, one of an odd one. Halved before they
   are added: two huge values do not overflow. */
AVX2_INLINE void middle(const float *strip, const Shorts *keys, Shorts *fine, int n, float *result) {
    Ranked middle = ranked(strip, keys, fine, n, (n - 1) / 2);
    __m256 half = _mm256_set1_ps(0.5f);
    for (int k = 0; k < 2; k++) {
        __m256 lower = middle.value.half[k], upper = n % 2 ? lower : middle.next.half[k];
        _mm256_storeu_ps(result + 8 * k, _mm256_add_ps(_mm256_mul_ps(half, lower), _mm256_mul_ps(half, upper)));
    }
}

/* The mean of 16 columns without their f least and f greatest values, summed in double. What is cut is added as the
   least or the greatest value that is kept, and that is taken off f times. */
AVX2_INLINE void trimmed(const float *strip, const Shorts *keys, Shorts *fine, int n, int f, float *result) {
    Floats least = ranked(strip, keys, fine, n, f).value, greatest = ranked(strip, keys, fine, n, n - 1 - f).value;
    __m256d times = _mm256_set1_pd(f), kept = _mm256_set1_pd(n - 2 * f);
    for (int k = 0; k < 2; k++) {
        __m256 low = least.half[k], high = greatest.half[k];
        __m256d sums[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
        for (int i = 0; i < n; i++) {
            __m256 row = _mm256_min_ps(_mm256_max_ps(_mm256_load_ps(strip + i * STRIP + 8 * k), low), high);
            for (int h = 0; h < 2; h++) sums[h] = _mm256_add_pd(sums[h], doubles(row, h));
        }
        for (int h = 0; h < 2; h++) {
            __m256d cut = _mm256_mul_pd(times, _mm256_add_pd(doubles(low, h), doubles(high, h)));
            _mm_storeu_ps(result + 8 * k + 4 * h, _mm256_cvtpd_ps(_mm256_div_pd(_mm256_sub_pd(sums[h], cut), kept)));
        }
    }
}

/* The trimmed mean of each of `width` columns of n rows, or the median if f is negative. width is a multiple of 64,
   n at most 32,767, f less than n / 2; `space` has 104 * n floats and begins at a multiple of 32 bytes. */
AVX2 void trimmed_means(const float *x, ptrdiff_t stride, int n, ptrdiff_t width, int f, float *result, float *space) {
    float *strip = space;
    Shorts *keys = (Shorts *)(strip + n * STRIP), *fine = keys + n * GROUPS;
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode & ~(_MM_FLUSH_ZERO_MASK | DENORMALS_ZERO)); /* the smallest values are compared as what they are */
    for (; width > 0; width -= STRIP, x += STRIP) {
        take(x, stride, n, strip, keys);
        for (int g = 0; g < GROUPS; g++, result += LANES) {
            if (f < 0)
                middle(strip + g * LANES, keys + g, fine, n, result);
            else
                trimmed(strip + g * LANES, keys + g, fine, n, f, result);
        }
    }
    _mm_setcsr(mode);
}

/* ---- sums */

/* The sum of rows times weights over the columns from ... to, in double. */
AVX2 void weighted_sum(const float *const *rows, const double *weights, int n, ptrdiff_t from, ptrdiff_t to,
                       float *result) {
    enum { WIDTH = 4096 };
    double sums[WIDTH];
    for (; from < to; from += WIDTH) {
        int here = to - from < WIDTH ? (int)(to - from) : WIDTH, i = 0;
        for (int k = 0; k < here; k++) sums[k] = 0;
        for (; i + 4 <= n; i += 4) {
            const float *a = rows[i] + from, *b = rows[i + 1] + from, *c = rows[i + 2] + from, *d = rows[i + 3] + from;
            const double *w = weights + i;
            for (int k = 0; k < here; k++) sums[k] += w[0] * a[k] + w[1] * b[k] + (w[2] * c[k] + w[3] * d[k]);
        }
        for (; i < n; i++)
            for (int k = 0; k < here; k++) sums[k] += weights[i] * rows[i][from + k];
        for (int k = 0; k < here; k++) result[from + k] = (float)sums[k];
    }
}

/* ---- inner products, of 1024 columns at a time */

enum { TILE = 4, WIDE = 16, WIDTH = 1024, CACHED = 96 };

/* Add the inner products of four rows with four to `products`, whose rows are n values apart. */
AVX512_INLINE void tile(const float *a, const float *b, double *products, int n) {
    __m512 sums[TILE][TILE], left[TILE], right[TILE];
    for (int i = 0; i < TILE; i++)
        for (int j = 0; j < TILE; j++) sums[i][j] = _mm512_setzero_ps();
    for (int k = 0; k < WIDTH; k += WIDE) {
        for (int i = 0; i < TILE; i++) left[i] = _mm512_load_ps(a + i * WIDTH + k);
        for (int j = 0; j < TILE; j++) right[j] = _mm512_load_ps(b + j * WIDTH + k);
        for (int i = 0; i < TILE; i++)
            for (int j = 0; j < TILE; j++) sums[i][j] = _mm512_fmadd_ps(left[i], right[j], sums[i][j]);
    }
    for (int i = 0; i < TILE; i++)
        for (int j = 0; j < TILE; j++) products[i * n + j] += (double)_mm512_reduce_add_ps(sums[i][j]);
}

/* Add (x - centre)(x - centre)' to the upper triangle of `products` [n, n], over the columns from ... to of the rows
   x. Each row is multiplied by its scale, a power of two. n is a multiple of 4, the last rows may be the centre;
   `space` has 1024 * n floats and begins at a multiple of 64 bytes. */
AVX512 void centred_products(const float *const *rows, const float *scales, int n, const float *centre, ptrdiff_t from,
                             ptrdiff_t to, double *products, float *space) {
    for (; from < to; from += WIDTH) {
        ptrdiff_t here = to - from < WIDTH ? to - from : WIDTH;
        for (int i = 0; i < n; i++) {
            const float *row = rows[i] + from, *about = centre + from;
            float *part = space + (ptrdiff_t)i * WIDTH, scale = scales[i];
            for (ptrdiff_t k = 0; k < here; k++) part[k] = row[k] * scale - about[k] * scale;
            for (ptrdiff_t k = here; k < WIDTH; k++) part[k] = 0;
        }
        for (int first = 0; first < n; first += CACHED) /* as many rows as the cache holds, with four others in turn */
            for (int i = 0; i < n && i < first + CACHED; i += TILE)
                for (int j = i > first ? i : first; j < n && j < first + CACHED; j += TILE)
                    tile(space + (ptrdiff_t)i * WIDTH, space + (ptrdiff_t)j * WIDTH, products + (ptrdiff_t)i * n + j, n);
    }
}
