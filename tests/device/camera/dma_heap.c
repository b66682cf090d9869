/* Gives libcamera's virtual camera its memory on a machine that has no dma-heap: loaded before the C library, it answers
 * for /dev/dma_heap/... with anonymous files, which libcamera and picamera2 map just as they map dma-bufs.
 * Everything else goes to the kernel. For tests alone. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int open_or_pretend(int folder, const char *path, int flags, mode_t mode)
{
    static const char heaps[] = "/dev/dma_heap/";
    if (path && !strncmp(path, heaps, sizeof heaps - 1))
        return memfd_create("dma-heap", MFD_CLOEXEC);
    return (int)syscall(SYS_openat, folder, path, flags, mode);
}

static int allocate(struct dma_heap_allocation_data *asked)
{
    int file = memfd_create("dma-buf", MFD_CLOEXEC);
    if (file < 0)
        return -1;
    if (ftruncate(file, (off_t)asked->len) < 0) {
        close(file);
        return -1;
    }
    asked->fd = (unsigned)file;
    return 0;
}

#define MODE_FROM(flags)                                                                                               \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                                           \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

int open(const char *path, int flags, ...)
{
    MODE_FROM(flags)
    return open_or_pretend(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE_FROM(flags)
    return open_or_pretend(AT_FDCWD, path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...)
{
    MODE_FROM(flags)
    return open_or_pretend(folder, path, flags, mode);
}

int ioctl(int file, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (request == DMA_HEAP_IOCTL_ALLOC)
        return allocate(argument);
    if (request == DMA_BUF_IOCTL_SYNC || _IOC_TYPE(request) == DMA_BUF_BASE)
        return 0; /* one processor's cache, nothing to synchronise; names are for people */
    return (int)syscall(SYS_ioctl, file, request, argument);
}
