// Small kernels around a graph's call. Every integer argument is 64 bits wide; the last is the number of threads.
// What a call's control block holds for each lane, as runtime/backends/cuda/call.py writes it.
enum { BASE, WIDTH, ROWS, OFFSET, FIELDS };

static __device__ long long thread_index() { return blockIdx.x * (long long)blockDim.x + threadIdx.x; }

// mask [lanes, rows, view]: a row reads every slot before its lane's BASE, and of the next WIDTH those that visible
// [ROWS, WIDTH], which begins at OFFSET, names. Rows from ROWS on are padding: they read slot 0 alone, because a row
// that reads nothing can become NaN.
extern "C" __global__ void expand_mask(unsigned char *mask, const unsigned char *visible, const long long *control,
                                       long long rows, long long view, long long threads) {
    long long i = thread_index();
    if (i >= threads) return;
    const long long *lane = control + i / view / rows * FIELDS;
    long long row = i / view % rows, slot = i % view, column = slot - lane[BASE];
    if (row >= lane[ROWS])
        mask[i] = slot == 0;
    else if (column < 0)
        mask[i] = 1;
    else
        mask[i] = column < lane[WIDTH] ? visible[lane[OFFSET] + row * lane[WIDTH] + column] : 0;
}

// block [rows, words] = the rows of a store that sources names; a word has 4 bytes.
extern "C" __global__ void fetch_rows(unsigned *block, const unsigned *store, const long long *sources,
                                      long long words, long long threads) {
    long long i = thread_index();
    if (i < threads) block[i] = store[sources[i / words] * words + i % words];
}

// The rows of block go to the rows of a store that destinations names; a row whose destination is negative is dropped.
extern "C" __global__ void store_rows(unsigned *store, const unsigned *block, const long long *destinations,
                                      long long words, long long threads) {
    long long i = thread_index();
    if (i < threads && destinations[i / words] >= 0) store[destinations[i / words] * words + i % words] = block[i];
}

// Rows move[3], move[4], ... (move[2] of them) of a text go to move[1], move[1] + 1, ... in every cache. A cache, whose
// address is in caches, has planes [slots, words]; those of the text begin at plane move[0], and there are so many for
// each text. Sources rise and none lies below its destination, so that a thread, which has one column to itself, can
// write a row before it reads the next.
extern "C" __global__ void move_rows(unsigned *const *caches, const long long *move, long long words, long long slots,
                                     long long planes, long long threads) {
    long long i = thread_index();
    if (i >= threads) return;
    long long plane = i / words;
    unsigned *column = caches[plane / planes] + (move[0] + plane % planes) * slots * words + i % words;
    for (long long row = 0; row < move[2]; row++) column[(move[1] + row) * words] = column[move[3 + row] * words];
}
