/* What a test does to the disk and the clocks of a process (LD_PRELOAD), told by files in the folder SHIM_FOLDER:
 * while `hang` is there, no write to a state file goes on, and no look into slow.toml; while `stuck` is there, whoever opens
 * the file that it names waits, even if it names another one meanwhile; `wall` and `slept` say by how many seconds the wall clock is ahead, and how long the machine has
 * slept. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static char path_of[4][4096];
enum { HANG, WALL, SLEPT, STUCK };

__attribute__((constructor)) static void begin(void) {
    static const char *names[] = {"hang", "wall", "slept", "stuck"};
    const char *folder = getenv("SHIM_FOLDER");
    for (int i = 0; folder && i < 4; i++)
        snprintf(path_of[i], sizeof path_of[i], "%s/%s", folder, names[i]);
}

static void hang(int fd) {
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 10 || (strncmp(name + length - 10, "state.redb", 10) && strncmp(name + length - 9, "slow.toml", 9)))
        return;
    while (access(path_of[HANG], F_OK) == 0)
        usleep(500);
}

ssize_t read(int fd, void *bytes, size_t count) {
    hang(fd);
    return syscall(SYS_read, fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    hang(fd);
    return syscall(SYS_pwrite64, fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return pwrite64(fd, bytes, count, offset);
}

int ftruncate64(int fd, off64_t length) {
    hang(fd);
    return syscall(SYS_ftruncate, fd, length);
}

int fdatasync(int fd) {
    hang(fd);
    return syscall(SYS_fdatasync, fd);
}

int fsync(int fd) {
    hang(fd);
    return syscall(SYS_fsync, fd);
}

static int told(int which, char *text, size_t size) {
    int fd = syscall(SYS_openat, AT_FDCWD, path_of[which], O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, text, size - 1);
    close(fd);
    text[length < 0 ? 0 : length] = 0;
    return 1;
}

static long seconds(int which) {
    char text[32];
    return told(which, text, sizeof text) ? atol(text) : 0;
}

static int stuck(const char *path) {
    char text[4096];
    return told(STUCK, text, sizeof text) && !strcmp(text, path);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    if (stuck(path))
        while (access(path_of[STUCK], F_OK) == 0)
            usleep(500);
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME)
        time->tv_sec += seconds(WALL);
    if (clock == CLOCK_BOOTTIME)
        time->tv_sec += seconds(SLEPT);
    return result;
}
