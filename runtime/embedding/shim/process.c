/* Who may call when: initialisation, shutdown, forks, and the end of the process. */
#include "shim.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { EXIT_SECONDS = 5 };

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static enum { NEW, STARTING, RUNNING, STOPPING, STOPPED, FORKED } state;
static int inside;         /* calls of all threads */
static __thread int depth; /* calls of this thread: more than one in a callback */

int enter(void)
{
    int now;
    pthread_mutex_lock(&gate);
    now = state;
    if (now == RUNNING) {
        inside++;
        depth++;
    }
    pthread_mutex_unlock(&gate);
    switch (now) {
    case RUNNING:
        return S2D_OK;
    case FORKED:
        return report(S2D_ERROR_STATE, "this process is a fork of the one that called s2d_init; fork before s2d_init, or"
                      " exec in the child");
    case NEW:
    case STARTING:
        return report(S2D_ERROR_STATE, "the library is not initialised; call s2d_init first");
    default:
        return report(S2D_ERROR_STATE, "the library is shut down; call s2d_init again");
    }
}

int leave(int status)
{
    pthread_mutex_lock(&gate);
    inside--;
    depth--;
    if (state == STOPPING)
        pthread_cond_signal(&left);
    pthread_mutex_unlock(&gate);
    return status;
}

static void set_state(int next)
{
    pthread_mutex_lock(&gate);
    state = next;
    pthread_mutex_unlock(&gate);
}

static void before_fork(void) { pthread_mutex_lock(&gate); }
static void after_fork(void) { pthread_mutex_unlock(&gate); }
static void after_fork_in_child(void)
{
    if (state != NEW)
        state = FORKED;
    pthread_mutex_unlock(&gate);
}

int is_fork(void)
{
    int forked;
    pthread_mutex_lock(&gate);
    forked = state == FORKED;
    pthread_mutex_unlock(&gate);
    return forked;
}

int done(int returned)
{
    if (returned == S2D_DONE)
        return S2D_OK;
    if (returned < 0)
        return returned;
    return report(S2D_ERROR_INTERNAL, "Python did not run the call; report this fault");
}

int s2d_abi_version(void)
{
    return S2D_ABI_VERSION;
}

int s2d_set_log_callback(s2d_log_callback callback, void *user_data)
{
    if (is_fork())
        return enter();
    set_log(callback, user_data);
    return S2D_OK;
}

static int shut_down(int seconds);

static void at_exit(void)
{
    if (depth == 0 && interpreter_runs()) /* a host's own Python has ended, and the texts with it */
        shut_down(EXIT_SECONDS);
}

/* A process that ends without s2d_shutdown would free what engines use below the thread that runs them. What was
 * registered last runs first, so this is called when engines have run. */
void shut_down_at_exit(void)
{
    atexit(at_exit);
}

int s2d_init(const s2d_params *params)
{
    static int registered;
    s2d_params own = default_params;
    int status, before;
    if (params && (status = read_struct(&own, sizeof own, params, "s2d_params")) != S2D_OK)
        return status;
    pthread_mutex_lock(&gate);
    before = state;
    if (before == NEW || before == STOPPED)
        state = STARTING;
    if (before == NEW && !registered) {
        pthread_atfork(before_fork, after_fork, after_fork_in_child);
        registered = 1;
    }
    pthread_mutex_unlock(&gate);
    if (before == FORKED)
        return enter();
    if (before != NEW && before != STOPPED)
        return report(S2D_ERROR_STATE, "the library is initialised; call s2d_init once, or s2d_shutdown first");
    status = interpreter_start(own.environment, own.python_path);
    if (status == S2D_OK)
        status = done(python_start(&own));
    set_state(status == S2D_OK ? RUNNING : before);
    return status;
}

/* `seconds` limits the wait for other threads' calls; 0 does not. */
static int shut_down(int seconds)
{
    struct timespec until;
    int status;
    if (depth > 0)
        return report(S2D_ERROR_STATE, "s2d_shutdown was called in a callback; call it after s2d_request_run");
    if ((status = enter()) != S2D_OK)
        return status;
    pthread_mutex_lock(&gate);
    inside--;
    depth--;
    if (state != RUNNING) {
        pthread_mutex_unlock(&gate);
        return report(S2D_ERROR_STATE, "another thread shuts the library down");
    }
    state = STOPPING;
    pthread_mutex_unlock(&gate);
    status = done(python_stop());
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&gate);
    while (inside > 0) {
        if (!seconds)
            pthread_cond_wait(&left, &gate);
        else if (pthread_cond_timedwait(&left, &gate, &until) != 0)
            break;
    }
    state = STOPPED;
    pthread_mutex_unlock(&gate);
    return status;
}

int s2d_shutdown(void)
{
    return shut_down(0);
}
