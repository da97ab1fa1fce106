/* Structs of hosts whose header is older or newer, and the defaults. */
#include "shim.h"

#include <string.h>

enum { MOST_STRUCT = 65536 };

/* Read a host's struct of `size` bytes over the defaults in `own`. */
int read_struct(void *own, size_t own_size, const void *theirs, const char *name)
{
    size_t size = *(const size_t *)theirs, at;
    if (size < sizeof size || size > MOST_STRUCT)
        return report(S2D_ERROR_ARGUMENT, "%s.size is %zu, which is no size; fill it with %s_default first", name, size,
                      name);
    for (at = own_size; at < size; at++)
        if (((const char *)theirs)[at])
            return report(S2D_ERROR_ARGUMENT, "%s has fields that this library does not know; install a newer one", name);
    memcpy(own, theirs, size < own_size ? size : own_size);
    *(size_t *)own = own_size;
    return S2D_OK;
}

/* Write a struct to a host whose own is of `size` bytes. */
int write_struct(void *theirs, size_t size, const void *own, size_t own_size, const char *name)
{
    if (!theirs)
        return report(S2D_ERROR_ARGUMENT, "%s is NULL", name);
    if (size < sizeof size || size > MOST_STRUCT)
        return report(S2D_ERROR_ARGUMENT, "the size of %s is %zu; give its sizeof", name, size);
    memset(theirs, 0, size);
    memcpy(theirs, own, size < own_size ? size : own_size);
    *(size_t *)theirs = size;
    return S2D_OK;
}

const s2d_params default_params = {.size = sizeof(s2d_params), .sequences = 8};

const s2d_options default_options = {
    .size = sizeof(s2d_options), .max_new_tokens = 128, .top_p = 1.0, .repetition_penalty = 1.0, .logprobs = -1,
    .special_tokens = 1, .draft = 1, .exact = -1};

int s2d_params_default(s2d_params *params, size_t size)
{
    return write_struct(params, size, &default_params, sizeof default_params, "s2d_params");
}

int s2d_options_default(s2d_options *options, size_t size)
{
    return write_struct(options, size, &default_options, sizeof default_options, "s2d_options");
}
