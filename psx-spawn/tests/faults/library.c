/* A library that starts threads when it is loaded, and ends them when it is unloaded. */
#define _GNU_SOURCE
#include <pthread.h>
#include <unistd.h>

static pthread_t workers[2];
static int pipe_ends[2];

static void *work(void *unused)
{
	char byte;

	pthread_setname_np(pthread_self(), "lib-worker");
	while (read(pipe_ends[0], &byte, 1) < 0)
		;
	return unused;
}

__attribute__((constructor)) static void load(void)
{
	if (pipe(pipe_ends))
		_exit(1);
	for (int i = 0; i < 2; i++)
		if (pthread_create(&workers[i], 0, work, 0))
			_exit(1);
}

__attribute__((destructor)) static void unload(void)
{
	close(pipe_ends[1]);
	for (int i = 0; i < 2; i++)
		pthread_join(workers[i], 0);
	close(pipe_ends[0]);
}
