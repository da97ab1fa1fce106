/* plugin LIBRARY DRAFT TARGET: a host that loads the library at run time, its symbols private. */
#include <s2d.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *library;

static void *function(const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return found;
}

/* ISO C has no cast from an object's pointer to a function's. */
#define LOAD(name) \
    do { \
        void *found = function(#name); \
        memcpy(&name##_, &found, sizeof found); \
    } while (0)

int main(int argc, char **argv)
{
    int (*s2d_init_)(const s2d_params *), (*s2d_shutdown_)(void);
    int (*s2d_draft_open_)(const char *, s2d_draft **);
    int (*s2d_target_open_)(const char *, const s2d_draft *, s2d_target **);
    const char *(*s2d_last_error_)(void);
    s2d_draft *draft;
    s2d_target *target;
    if (argc != 4 || !(library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL))) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    LOAD(s2d_init);
    LOAD(s2d_shutdown);
    LOAD(s2d_draft_open);
    LOAD(s2d_target_open);
    LOAD(s2d_last_error);
    if (s2d_init_(NULL) != S2D_OK || s2d_draft_open_(argv[2], &draft) != S2D_OK ||
        s2d_target_open_(argv[3], draft, &target) != S2D_OK || s2d_shutdown_() != S2D_OK) {
        fprintf(stderr, "%s\n", s2d_last_error_());
        return 1;
    }
    dlclose(library);
    return 0;
}
