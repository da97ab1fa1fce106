/* Starts Python in a process that is not Python's, without touching what belongs to the host. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "shim.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VERSION_FOLDER "python" Py_STRINGIFY(PY_MAJOR_VERSION) "." Py_STRINGIFY(PY_MINOR_VERSION)

/* Python's output must not reach the host's, not even while site runs; what a failed import prints is kept for the log.
 * `own` says that the interpreter was started here. */
static const char PRELUDE[] =
    "import sys\n"
    "if own:\n"
    "    import io\n"
    "    sys.stdout = sys.stderr = io.StringIO()\n"
    "    import site\n"
    "    site.main()\n"
    "sys.path[:0] = [path for path in paths.split(':') if path and path not in sys.path]\n"
    "import runtime.embedding.bridge\n";

static char started_in[PATH_MAX];
static int broken; /* Python could be started only in part, and cannot be started twice */

/* Extension modules do not link libpython; they find its symbols only if they are global, which they are not where the
 * host loaded this library with RTLD_LOCAL. */
static int promote_python(void)
{
    Dl_info info;
    void *program = dlopen(NULL, RTLD_LAZY);
    int global = program && dlsym(program, "PyLong_Type");
    if (program)
        dlclose(program);
    if (global)
        return S2D_OK;
    if (dladdr(&PyLong_Type, &info) && dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD))
        return S2D_OK;
    return report(S2D_ERROR_PYTHON, "libpython cannot be made global (%s); link the program with it", dlerror());
}

/* The folder of the environment: the parameter, `python` beside this library, or the one that built it. */
static void find_environment(const char *parameter, char *folder)
{
    Dl_info info;
    char python[PATH_MAX + 16];
    if (parameter) {
        snprintf(folder, PATH_MAX, "%s", parameter);
        return;
    }
    if (dladdr(started_in, &info) && realpath(info.dli_fname, folder)) {
        char *slash = strrchr(folder, '/');
        snprintf(slash, PATH_MAX - (size_t)(slash - folder), "/python");
        snprintf(python, sizeof python, "%s/bin/python3", folder);
        if (access(python, F_OK) == 0)
            return;
    }
    snprintf(folder, PATH_MAX, "%s", S2D_ENVIRONMENT);
}

/* Python ends the process or prints where its own files are missing, so look before it does. */
static int check_environment(const char *folder, char *python)
{
    char packages[PATH_MAX + 32];
    snprintf(python, PATH_MAX + 16, "%s/bin/python3", folder);
    snprintf(packages, sizeof packages, "%s/lib/" VERSION_FOLDER, folder);
    if (access(python, X_OK) != 0)
        return report(S2D_ERROR_PYTHON, "%s is no Python environment (it has no bin/python3); give s2d_params.environment"
                      " one that holds the runtime", folder);
    if (access(packages, F_OK) != 0)
        return report(S2D_ERROR_PYTHON, "%s is no environment of " VERSION_FOLDER ", for which this library was built;"
                      " give another one, or build the library with its Python", folder);
    return S2D_OK;
}

static int start_python(const char *python)
{
    PyPreConfig before;
    PyConfig config;
    PyStatus status;

    PyPreConfig_InitIsolatedConfig(&before); /* the host's locale and variables have no part in it */
    before.utf8_mode = 1;
    status = Py_PreInitialize(&before);
    if (!PyStatus_Exception(status)) {
        PyConfig_InitIsolatedConfig(&config); /* signal handlers stay the host's */
        config.site_import = 0;               /* PRELUDE runs it where its messages can be caught */
        config.pathconfig_warnings = 0;
        status = PyConfig_SetBytesString(&config, &config.program_name, python);
        if (!PyStatus_Exception(status))
            status = Py_InitializeFromConfig(&config);
        PyConfig_Clear(&config);
    }
    if (!PyStatus_Exception(status))
        return S2D_OK;
    broken = 1;
    return report(S2D_ERROR_PYTHON, "Python of %s does not start (%s); give a whole environment in a new process",
                  python, status.err_msg ? status.err_msg : "no reason given");
}

/* Put the pending exception into this thread's error. */
static int report_exception(const char *folder)
{
    PyObject *type, *value, *traceback, *text;
    const char *message = NULL;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    text = value ? PyObject_Str(value) : NULL;
    if (text)
        message = PyUnicode_AsUTF8(text);
    report(S2D_ERROR_PYTHON, "the environment %s does not hold the runtime and its extra [embed] (%s: %s); install them"
           " there, or give another one in a new process", folder,
           type ? ((PyTypeObject *)type)->tp_name : "error", message ? message : "no reason given");
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    PyErr_Clear();
    return S2D_ERROR_PYTHON;
}

/* Import the runtime. The GIL is held. */
static int import_runtime(int own, const char *folder, const char *paths)
{
    PyObject *globals = PyDict_New(), *is_own = PyBool_FromLong(own), *text = PyUnicode_DecodeFSDefault(paths);
    PyObject *result = NULL;
    if (globals && is_own && text && PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins()) == 0 &&
        PyDict_SetItemString(globals, "own", is_own) == 0 && PyDict_SetItemString(globals, "paths", text) == 0)
        result = PyRun_String(PRELUDE, Py_file_input, globals, globals);
    Py_XDECREF(globals);
    Py_XDECREF(is_own);
    Py_XDECREF(text);
    if (!result)
        return report_exception(folder);
    Py_DECREF(result);
    return S2D_OK;
}

int interpreter_runs(void)
{
    return Py_IsInitialized();
}

int interpreter_start(const char *environment, const char *python_path)
{
    char folder[PATH_MAX], python[PATH_MAX + 16], paths[2 * PATH_MAX];
    int status, own = !Py_IsInitialized();
    PyGILState_STATE held = PyGILState_UNLOCKED;

    if (broken)
        return report(S2D_ERROR_PYTHON, "Python could not be started in this process before; start a new one");
    if (promote_python() != S2D_OK)
        return S2D_ERROR_PYTHON;
    find_environment(environment, folder);
    if (!own && environment && strcmp(folder, started_in) != 0)
        return report(S2D_ERROR_PYTHON, "this process runs Python in %s; s2d_params.environment cannot change it",
                      *started_in ? started_in : "an environment of its own");
    if (own) {
        status = check_environment(folder, python);
        if (status == S2D_OK)
            status = start_python(python);
        if (status != S2D_OK)
            return status;
        snprintf(started_in, sizeof started_in, "%s", folder);
    } else {
        held = PyGILState_Ensure();
    }
    /* The runtime of a checkout is found where the environment is the one that built the library. */
    snprintf(paths, sizeof paths, "%s:%s", python_path ? python_path : "",
             strcmp(folder, S2D_ENVIRONMENT) == 0 ? S2D_PACKAGES : "");
    status = import_runtime(own, *started_in ? started_in : "of this process", paths);
    if (own)
        PyEval_SaveThread();
    else
        PyGILState_Release(held);
    if (status == S2D_OK && native_start() != 0) {
        broken = 1;
        return report(S2D_ERROR_PYTHON, "the runtime in %s does not fit this library; build the library again with it",
                      folder);
    }
    return status;
}
