/* A static C program that links psx as a Rust static library. Exits with status 0 if its threads
   start and end normally. */
#include <pthread.h>
#include <threads.h>

static void *leave(void *argument) { return argument; }
static int leave_c11(void *argument) { return argument != 0; }

int main(void)
{
    pthread_t thread;
    thrd_t c11;
    void *result = 0;
    int code = 0;

    if (pthread_create(&thread, 0, leave, &thread) || pthread_join(thread, &result))
        return 1;
    if (thrd_create(&c11, leave_c11, &c11) != thrd_success || thrd_join(c11, &code) != thrd_success)
        return 2;
    return result == &thread && code == 1 ? 0 : 3;
}
