/*
 * What the C peers share: N parked threads, and one request a line on standard input.
 *
 *     one 100     a hundred rounds of one call
 *     ids 100     a hundred times the three set*id calls
 *     six 100     a hundred times the six steps of a privilege drop
 *
 * The answer to each is one line of a hundred numbers: nanoseconds. A peer defines the three
 * functions below, and does not list in ops[] those that it cannot make.
 * No argument changes the process, so that the calls can be repeated.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* musl-gcc has no kernel headers. */
#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129
#define CAPABILITY_VERSION_3 0x20080522

struct op {
	const char *name;
	void (*run)(void);
};
extern const struct op ops[];
extern const size_t op_count;
void prepare(void);

static int thread_count;
static pid_t *tids;

static uid_t uid;
static gid_t gid;
static gid_t groups[NGROUPS_MAX];
static int group_count;
static struct {
	unsigned version;
	int pid;
} cap_header = {CAPABILITY_VERSION_3, 0};
static unsigned caps[6];

static void must(int succeeded, const char *what)
{
	if (!succeeded) {
		fprintf(stderr, "%s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static int parked_count, never;

static void *park(void *slot)
{
	*(pid_t *)slot = syscall(SYS_gettid);
	if (__atomic_add_fetch(&parked_count, 1, __ATOMIC_SEQ_CST) == thread_count)
		syscall(SYS_futex, &parked_count, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	while (never == 0)
		syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	return NULL;
}

static void start_threads(void)
{
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 * 1024);
	tids = calloc(thread_count, sizeof *tids);
	for (int i = 0; i < thread_count; i++) {
		pthread_t thread;
		errno = pthread_create(&thread, &attr, park, &tids[i]);
		must(errno == 0, "pthread_create");
	}
	int seen;
	while ((seen = __atomic_load_n(&parked_count, __ATOMIC_SEQ_CST)) != thread_count)
		syscall(SYS_futex, &parked_count, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void answer(void (*run)(void), int rounds)
{
	for (int i = 0; i < rounds; i++) {
		struct timespec from, to;
		clock_gettime(CLOCK_MONOTONIC, &from);
		run();
		clock_gettime(CLOCK_MONOTONIC, &to);
		printf("%lld ", (to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec);
	}
	printf("\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	thread_count = argc > 1 ? atoi(argv[1]) : 1;
	uid = getuid();
	gid = getgid();
	must((group_count = getgroups(NGROUPS_MAX, groups)) >= 0, "getgroups");
	must(syscall(SYS_capget, &cap_header, caps) == 0, "capget");
	start_threads();
	prepare();
	printf("ready\n");
	fflush(stdout);

	char name[8];
	int rounds;
	while (scanf("%7s %d", name, &rounds) == 2)
		for (size_t i = 0; i < op_count; i++)
			if (strcmp(ops[i].name, name) == 0)
				answer(ops[i].run, rounds);
	_exit(0);
}
