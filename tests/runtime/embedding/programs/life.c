/* life CASE DRAFT TARGET: beginning and end, of the library and of its process. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *draft_path, *target_path;
static s2d_draft *draft;
static s2d_target *target;

static void start(void)
{
    OK(s2d_init(NULL));
    OK(s2d_draft_open(draft_path, &draft));
    OK(s2d_target_open(target_path, draft, &target));
}

/* Nothing works before s2d_init or after s2d_shutdown; a second life is like the first one. */
static void twice(void)
{
    s2d_request *request, *waiting;
    const s2d_step *step;
    s2d_stats stats;
    s2d_draft *none;
    int life;
    CHECK(s2d_abi_version() == S2D_ABI_VERSION);
    CHECK(strcmp(s2d_last_error(), "") == 0);
    FAILS(s2d_draft_open(draft_path, &none), S2D_ERROR_STATE, "call s2d_init first");
    FAILS(s2d_shutdown(), S2D_ERROR_STATE, "not initialised");
    for (life = 0; life < 2; life++) {
        start();
        FAILS(s2d_init(NULL), S2D_ERROR_STATE, "is initialised");
        request = submit(target, "the draft", 8);
        CHECK(drain(request) == 8);
        s2d_request_free(request);
        request = submit(target, "the draft", 200);
        waiting = submit(target, "the draft", 200);
        OK(s2d_request_next(request, -1, &step));
        OK(s2d_shutdown());
        FAILS(s2d_request_next(request, 0, &step), S2D_ERROR_STATE, "shut down");
        FAILS(s2d_request_stats(waiting, &stats, sizeof stats), S2D_ERROR_STATE, "shut down");
        OK(s2d_request_cancel(request));
        FAILS(s2d_target_open(target_path, NULL, &target), S2D_ERROR_STATE, "shut down");
        FAILS(s2d_shutdown(), S2D_ERROR_STATE, "shut down");
        s2d_request_free(request);
        s2d_request_free(waiting);
        s2d_draft_close(draft);
    }
}

static void check_child(int code)
{
    int state;
    CHECK(wait(&state) > 0 && WIFEXITED(state) && WEXITSTATUS(state) == code);
}

/* A fork before s2d_init is like any process, one after it is refused and ends in peace. */
static void forked(void)
{
    s2d_request *request, *none;
    const s2d_step *step;
    if (fork() == 0) {
        start();
        request = submit(target, "the draft", 4);
        CHECK(drain(request) == 4);
        exit(3);
    }
    check_child(3);
    start();
    request = submit(target, "the draft", 200);
    if (fork() == 0) {
        FAILS(s2d_request_next(request, -1, &step), S2D_ERROR_STATE, "fork");
        FAILS(s2d_request_create(target, "a", NULL, &none), S2D_ERROR_STATE, "fork");
        FAILS(s2d_set_log_callback(NULL, NULL), S2D_ERROR_STATE, "fork");
        FAILS(s2d_init(NULL), S2D_ERROR_STATE, "fork");
        FAILS(s2d_shutdown(), S2D_ERROR_STATE, "fork");
        s2d_request_free(request);
        s2d_target_close(target);
        _exit(4);
    }
    check_child(4);
    CHECK(drain(request) > 0);
    s2d_request_free(request);
    OK(s2d_shutdown());
}

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    caught = number;
}

/* The host's handlers, and its locale, stay as they are. */
static void signals(void)
{
    struct sigaction before[65], after, own;
    int number;
    s2d_request *request;
    memset(before, 0, sizeof before); /* the C library keeps some numbers to itself */
    memset(&after, 0, sizeof after);
    memset(&own, 0, sizeof own);
    own.sa_handler = on_signal;
    sigaction(SIGINT, &own, NULL);
    sigaction(SIGTERM, &own, NULL);
    for (number = 1; number < 65; number++)
        sigaction(number, NULL, &before[number]);
    start();
    request = submit(target, "the draft", 8);
    raise(SIGINT);
    CHECK(caught == SIGINT);
    CHECK(drain(request) == 8);
    s2d_request_free(request);
    for (number = 1; number < 65; number++) {
        if (sigaction(number, NULL, &after) == 0)
            CHECK(before[number].sa_handler == after.sa_handler);
    }
    OK(s2d_shutdown());
}

/* A process that ends without s2d_shutdown, while texts run, ends with its own code. */
static void unfinished(void)
{
    s2d_request *request;
    const s2d_step *step;
    start();
    request = submit(target, "the draft", 200);
    submit(target, "a tree", 200);
    OK(s2d_request_next(request, -1, &step));
    exit(5);
}

static int shut_down_inside(const s2d_step *step, void *user_data)
{
    (void)step;
    (void)user_data;
    FAILS(s2d_shutdown(), S2D_ERROR_STATE, "callback");
    return 1;
}

static void *take_all(void *request)
{
    const s2d_step *step;
    int status;
    while ((status = s2d_request_next(request, -1, &step)) == S2D_OK)
        continue;
    CHECK(status == S2D_END || status == S2D_ERROR_STATE);
    return NULL;
}

/* A thread that waits for a step comes back when another one shuts the library down. */
static void waiting(void)
{
    pthread_t thread;
    s2d_request *request;
    start();
    request = submit(target, "the draft", 30);
    OK(s2d_request_run(request, shut_down_inside, NULL));
    s2d_request_free(request);
    request = submit(target, "the draft", 200);
    pthread_create(&thread, NULL, take_all, request);
    OK(s2d_shutdown());
    pthread_join(thread, NULL);
    s2d_request_free(request);
}

int main(int argc, char **argv)
{
    CHECK(argc == 4);
    draft_path = argv[2];
    target_path = argv[3];
    if (strcmp(argv[1], "twice") == 0)
        twice();
    else if (strcmp(argv[1], "forked") == 0)
        forked();
    else if (strcmp(argv[1], "signals") == 0)
        signals();
    else if (strcmp(argv[1], "unfinished") == 0)
        unfinished();
    else if (strcmp(argv[1], "waiting") == 0)
        waiting();
    else
        return 2;
    return 0;
}
