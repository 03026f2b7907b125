/* The floor: one tgkill for each thread, a handler that counts, one wake by the last. No other call is made. */
#include "peer.h"

static int missing;

static void count_down(int signal)
{
	(void)signal;
	if (__atomic_sub_fetch(&missing, 1, __ATOMIC_SEQ_CST) == 0)
		syscall(SYS_futex, &missing, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void one(void)
{
	pid_t pid = getpid();
	__atomic_store_n(&missing, thread_count, __ATOMIC_SEQ_CST);
	for (int i = 0; i < thread_count; i++)
		/* EAGAIN: the user's quota of queued signals is used up, perhaps by another process. */
		while (syscall(SYS_tgkill, pid, tids[i], SIGRTMIN) != 0)
			must(errno == EAGAIN, "tgkill");
	int left;
	while ((left = __atomic_load_n(&missing, __ATOMIC_SEQ_CST)) != 0)
		syscall(SYS_futex, &missing, FUTEX_WAIT_PRIVATE, left, NULL, NULL, 0);
}

void prepare(void)
{
	struct sigaction action = {.sa_handler = count_down, .sa_flags = SA_RESTART};
	must(sigaction(SIGRTMIN, &action, NULL) == 0, "sigaction");
}

const struct op ops[] = {{"one", one}};
const size_t op_count = 1;
