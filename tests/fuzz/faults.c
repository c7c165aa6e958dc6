/* Preloaded: at a chosen change of a file below a folder, the process is killed or the call fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { COUNT, BEFORE, MIDDLE, AFTER, ONCE, FROM_THEN_ON };

static char folder[4096];
static long seen, when;
static int what, number;

/* Begins anew; returns the number of changes seen so far. */
long arm(const char *below, long at, int kind, int error)
{
    long before = seen;
    strncpy(folder, below, sizeof folder - 1);
    seen = 0, when = at, what = kind, number = error;
    return before;
}

static int below(const char *path)
{
    return folder[0] && strncmp(path, folder, strlen(folder)) == 0;
}

static int inside(int descriptor)
{
    char link[64], path[4096];
    ssize_t size;
    int before = errno;
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    size = readlink(link, path, sizeof path - 1);
    errno = before;
    if (size < 0) return 0;
    path[size] = 0;
    return below(path);
}

static int named(const char *path)
{
    char cwd[4096], whole[8192];
    if (!folder[0] || !path) return 0;
    if (path[0] == '/') return below(path);
    if (!getcwd(cwd, sizeof cwd)) return 0;
    snprintf(whole, sizeof whole, "%s/%s", cwd, path);
    return below(whole);
}

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

/* What to do at a change of a file: 0 nothing, AFTER to die when it is done, -1 to fail. */
static int change(int there)
{
    if (!there) return 0;
    seen++;
    if (what == FROM_THEN_ON && seen >= when) { errno = number; return -1; }
    if (what == COUNT || seen != when) return 0;
    if (what == BEFORE) die();
    if (what == ONCE) { errno = number; return -1; }
    return what;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRITES(name, parameters, half, arguments)                        \
    ssize_t name parameters                                              \
    {                                                                    \
        REAL(name);                                                      \
        int todo = change(inside(descriptor));                           \
        if (todo < 0) return -1;                                         \
        if (todo == MIDDLE) { size_t size = count / 2; (void)!real half; die(); } \
        ssize_t done = real arguments;                                   \
        if (todo) die();                                                 \
        return done;                                                     \
    }

#define CHANGES(name, parameters, there, arguments)                      \
    int name parameters                                                  \
    {                                                                    \
        REAL(name);                                                      \
        int todo = change(there);                                        \
        if (todo < 0) return -1;                                         \
        int done = real arguments;                                       \
        if (todo) die();                                                 \
        return done;                                                     \
    }

WRITES(write, (int descriptor, const void *data, size_t count), (descriptor, data, size), (descriptor, data, count))
WRITES(pwrite, (int descriptor, const void *data, size_t count, off_t at), (descriptor, data, size, at), (descriptor, data, count, at))
WRITES(pwrite64, (int descriptor, const void *data, size_t count, off64_t at), (descriptor, data, size, at), (descriptor, data, count, at))
CHANGES(fsync, (int descriptor), inside(descriptor), (descriptor))
CHANGES(fdatasync, (int descriptor), inside(descriptor), (descriptor))
CHANGES(ftruncate, (int descriptor, off_t size), inside(descriptor), (descriptor, size))
CHANGES(ftruncate64, (int descriptor, off64_t size), inside(descriptor), (descriptor, size))
CHANGES(rename, (const char *from, const char *to), named(to), (from, to))
CHANGES(unlink, (const char *path), named(path), (path))
CHANGES(rmdir, (const char *path), named(path), (path))
CHANGES(mkdir, (const char *path, mode_t mode), named(path), (path, mode))
CHANGES(link, (const char *from, const char *to), named(to), (from, to))
CHANGES(renameat, (int a, const char *from, int b, const char *to), named(to), (a, from, b, to))
CHANGES(unlinkat, (int a, const char *path, int flags), named(path), (a, path, flags))
CHANGES(mkdirat, (int a, const char *path, mode_t mode), named(path), (a, path, mode))
CHANGES(linkat, (int a, const char *from, int b, const char *to, int flags), named(to), (a, from, b, to, flags))

#define OPENS(name)                                                      \
    int name(const char *path, int flags, ...)                           \
    {                                                                    \
        REAL(name);                                                      \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;        \
        va_end(rest);                                                    \
        int todo = change(flags & (O_CREAT | O_TRUNC) && named(path));   \
        if (todo < 0) return -1;                                         \
        int done = real(path, flags, mode);                              \
        if (todo) die();                                                 \
        return done;                                                     \
    }

OPENS(open)
OPENS(open64)
