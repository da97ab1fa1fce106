/* This thread's error, and the host's log. */
#include "shim.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

static __thread char last_error[1024];

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static s2d_log_callback log_callback;
static void *log_user_data;

int report(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    return status;
}

void host_error(const char *message)
{
    report(0, "%s", message);
}

void host_log(int level, const char *message)
{
    pthread_mutex_lock(&log_lock);
    if (log_callback)
        log_callback(level, message, log_user_data);
    pthread_mutex_unlock(&log_lock);
}

void set_log(s2d_log_callback callback, void *user_data)
{
    pthread_mutex_lock(&log_lock);
    log_callback = callback;
    log_user_data = user_data;
    pthread_mutex_unlock(&log_lock);
}

const char *s2d_last_error(void)
{
    return last_error;
}

const char *s2d_status_name(int status)
{
    switch (status) {
#define NAME(status) case status: return #status;
        NAME(S2D_OK) NAME(S2D_END) NAME(S2D_TIMEOUT)
        NAME(S2D_ERROR_ARGUMENT) NAME(S2D_ERROR_STATE) NAME(S2D_ERROR_PYTHON) NAME(S2D_ERROR_BUNDLE)
        NAME(S2D_ERROR_MISMATCH) NAME(S2D_ERROR_CAPACITY) NAME(S2D_ERROR_BUFFER) NAME(S2D_ERROR_MEMORY)
        NAME(S2D_ERROR_INTERNAL)
#undef NAME
    }
    return "unknown status";
}
