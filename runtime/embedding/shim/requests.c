/* A request as the host sees it: Python's thread puts steps in, a thread of the host takes them out, without Python. */
#include "shim.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A step and its arrays, in one piece of memory. */
typedef struct node {
    struct node *next;
    s2d_step step;
} node;

struct s2d_request {
    atomic_int owners; /* the host and Python */
    atomic_int cancelled;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    node *first, *last;
    node *taken; /* what the host looks at */
    int ended;
    int status; /* of the end */
    char message[1024];
    s2d_stats stats;
};

/* Whether a request was cancelled since Python last looked. */
static atomic_int cancels;

s2d_request *request_new(void)
{
    s2d_request *request = calloc(1, sizeof *request);
    pthread_condattr_t attributes;
    if (!request)
        return NULL;
    pthread_mutex_init(&request->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&request->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    atomic_init(&request->owners, 2);
    request->stats.size = sizeof request->stats;
    return request;
}

void request_drop(s2d_request *request)
{
    if (atomic_fetch_sub(&request->owners, 1) > 1)
        return;
    while (request->first) {
        node *next = request->first->next;
        free(request->first);
        request->first = next;
    }
    free(request->taken);
    pthread_cond_destroy(&request->changed);
    pthread_mutex_destroy(&request->lock);
    free(request);
}

void request_cancel(s2d_request *request)
{
    atomic_store(&request->cancelled, 1);
    atomic_store(&cancels, 1);
}

int host_take_cancels(void)
{
    return atomic_exchange(&cancels, 0);
}

int host_cancelled(const s2d_request *request)
{
    return atomic_load(&request->cancelled);
}

void request_stats(const s2d_request *request, s2d_stats *stats)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&request->lock;
    pthread_mutex_lock(lock);
    *stats = request->stats;
    pthread_mutex_unlock(lock);
}

/* Wait for a step or the end; whether one came in time. The lock is held. */
static int wait_for_step(s2d_request *request, int timeout_ms)
{
    struct timespec until;
    if (timeout_ms > 0) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += timeout_ms / 1000;
        until.tv_nsec += timeout_ms % 1000 * 1000000L;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000L;
        }
    }
    while (!request->first && !request->ended) {
        if (timeout_ms == 0)
            return 0;
        if (timeout_ms < 0)
            pthread_cond_wait(&request->changed, &request->lock);
        else if (pthread_cond_timedwait(&request->changed, &request->lock, &until) == ETIMEDOUT)
            return request->first || request->ended;
    }
    return 1;
}

int request_next(s2d_request *request, int timeout_ms, const s2d_step **step)
{
    int status = S2D_OK;
    free(request->taken);
    request->taken = NULL;
    pthread_mutex_lock(&request->lock);
    if (!wait_for_step(request, timeout_ms)) {
        status = S2D_TIMEOUT;
    } else if (request->first) {
        request->taken = request->first;
        request->first = request->taken->next;
        *step = &request->taken->step;
    } else {
        status = request->status;
        if (status < 0)
            report(status, "%s", request->message);
    }
    pthread_mutex_unlock(&request->lock);
    return status;
}

/* Copy an array to where `*free` points, and let that point behind it; NULL stays NULL. */
static const void *copy_array(char **place, const void *source, size_t bytes)
{
    char *copy = *place;
    if (!source)
        return NULL;
    memcpy(copy, source, bytes);
    *place += (bytes + 7) / 8 * 8;
    return copy;
}

static node *node_of(const s2d_step *step)
{
    size_t tokens = step->token_count, tops = tokens * step->top_count;
    /* Each array may need 7 bytes more to end at a multiple of 8. */
    size_t bytes = sizeof(node) + tokens * (sizeof(int32_t) + 1 + sizeof(size_t) + sizeof(double)) +
                   tops * (sizeof(int32_t) + sizeof(double)) + step->text_length + 1 + 7 * 8;
    node *made = malloc(bytes);
    char *place = (char *)(made + 1);
    if (!made)
        return NULL;
    made->next = NULL;
    made->step = *step;
    made->step.size = sizeof *step;
    made->step.tokens = copy_array(&place, step->tokens, tokens * sizeof(int32_t));
    made->step.drafted = copy_array(&place, step->drafted, tokens);
    made->step.text_ends = copy_array(&place, step->text_ends, tokens * sizeof(size_t));
    made->step.logprobs = copy_array(&place, step->logprobs, tokens * sizeof(double));
    made->step.top_tokens = copy_array(&place, step->top_tokens, tops * sizeof(int32_t));
    made->step.top_logprobs = copy_array(&place, step->top_logprobs, tops * sizeof(double));
    made->step.text = memcpy(place, step->text, step->text_length);
    place[step->text_length] = 0;
    return made;
}

/* Python's thread: the next step of a text; 0 where there is no memory for it. */
int host_put(s2d_request *request, const s2d_step *step, const s2d_stats *stats)
{
    node *made = node_of(step);
    if (!made)
        return 0;
    pthread_mutex_lock(&request->lock);
    if (request->first)
        request->last->next = made;
    else
        request->first = made;
    request->last = made;
    request->stats = *stats;
    pthread_cond_signal(&request->changed);
    pthread_mutex_unlock(&request->lock);
    return 1;
}

/* Python's thread: the text has ended, with S2D_END or an error. Python does not use the request afterwards. */
void host_end(s2d_request *request, int status, const char *message, const s2d_stats *stats)
{
    pthread_mutex_lock(&request->lock);
    request->ended = 1;
    request->status = status;
    strncpy(request->message, message, sizeof request->message - 1);
    request->stats = *stats;
    pthread_cond_signal(&request->changed);
    pthread_mutex_unlock(&request->lock);
    request_drop(request);
}
