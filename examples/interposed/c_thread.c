/* A C library that starts a thread, without psx. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

static pthread_t thread;
static int start_fd;

/* Waits until start_fd is readable or closed, then tries to read /etc/shadow. */
static void *attempt(void *unused)
{
    char byte;
    int fd;

    while (read(start_fd, &byte, 1) < 0 && errno == EINTR)
        ;
    fd = open("/etc/shadow", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return (void *)(long)errno;
    close(fd);
    return unused;
}

int c_thread_start(int fd)
{
    start_fd = fd;
    return pthread_create(&thread, NULL, attempt, NULL);
}

/* Returns 0 if the thread could read the file, else the error's number. */
int c_thread_join(void)
{
    void *result;

    pthread_join(thread, &result);
    return (int)(long)result;
}
