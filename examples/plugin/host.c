/* A program that loads plug-ins. Started as `host SCENARIO PLUGIN...`; status 0 if the scenario succeeds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MEMBERS = 4, NOISE = 4, SETGIDS = 1000 };

static void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	_exit(1);
}

struct plugin {
	void *handle;
	int (*adopt)(void);
	int (*round)(int require, unsigned milliseconds, char *text, size_t size);
};

static struct plugin load(const char *path)
{
	struct plugin plugin;

	plugin.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!plugin.handle)
		fail("%s", dlerror());
	plugin.adopt = dlsym(plugin.handle, "plugin_adopt");
	plugin.round = dlsym(plugin.handle, "plugin_round");
	if (!plugin.adopt || !plugin.round)
		fail("%s lacks a function", path);
	return plugin;
}

/* Closes it; psx keeps it loaded. */
static void unload(struct plugin *plugin)
{
	if (dlclose(plugin->handle))
		fail("%s", dlerror());
}

static long slack(void)
{
	return prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
}

static void must_round(struct plugin *plugin, int require, int threads)
{
	char text[512];
	int done = plugin->round(require, 5000, text, sizeof text);

	if (done < 0)
		fail("a round: %s", text);
	if (done != threads)
		fail("a round of %d threads, not of %d", done, threads);
}

/* Threads that do what main asks for. */
struct member {
	pthread_t thread;
	int ask[2], answer[2];
};

static struct plugin *asked_of;
static const unsigned long signal_33 = 1UL << 32;

static void *serve(void *argument)
{
	struct member *me = argument;
	long answer;
	char what;

	while (read(me->ask[0], &what, 1) == 1 && what != 'q') {
		if (what == 'b' || what == 'u')
			syscall(SYS_rt_sigprocmask, what == 'b' ? SIG_BLOCK : SIG_UNBLOCK, &signal_33,
				NULL, sizeof signal_33);
		answer = what == 'a' ? asked_of->adopt() : slack();
		if (write(me->answer[1], &answer, sizeof answer) != sizeof answer)
			fail("write");
	}
	return NULL;
}

static void start(struct member *member)
{
	if (pipe(member->ask) || pipe(member->answer))
		fail("pipe");
	if (pthread_create(&member->thread, NULL, serve, member))
		fail("pthread_create");
}

static long ask(struct member *member, char what)
{
	long answer = 0;

	if (write(member->ask[1], &what, 1) != 1)
		fail("write");
	if (what == 'q')
		pthread_join(member->thread, NULL);
	else if (read(member->answer[0], &answer, sizeof answer) != sizeof answer)
		fail("read");
	return answer;
}

static void adopt(struct plugin *plugin, struct member *members)
{
	asked_of = plugin;
	if (plugin->adopt())
		fail("main was not adopted");
	for (int i = 0; i < MEMBERS; i++)
		if (ask(&members[i], 'a'))
			fail("a member was not adopted");
}

static void all_have(long wanted, struct member *members)
{
	if (slack() != wanted)
		fail("main has %ld, not %ld", slack(), wanted);
	for (int i = 0; i < MEMBERS; i++)
		if (ask(&members[i], 's') != wanted)
			fail("a member has %ld, not %ld", ask(&members[i], 's'), wanted);
}

/* How often the clock may still be read. The plug-in's calls come here, since the loader searches the host
 * first for every symbol. */
static volatile int readings = -1;

int clock_gettime(clockid_t clock, struct timespec *time)
{
	if (readings == 0) {
		errno = EPERM;
		return -1;
	}
	if (readings > 0)
		readings--;
	return syscall(SYS_clock_gettime, clock, time);
}

/* A clock that cannot be read from some time on. */
static void no_clock(char **paths)
{
	struct member members[MEMBERS];
	struct plugin plugin = load(paths[0]);
	long wanted = slack(), failed = 0;
	char text[512];

	for (int i = 0; i < MEMBERS; i++)
		start(&members[i]);
	adopt(&plugin, members);
	for (int left = 0; left < 30; left++) {
		readings = left;
		if (plugin.round(1, 5000, text, sizeof text) >= 0)
			wanted++;
		else if (failed++, !strstr(text, "nothing changed"))
			fail("%d readings: %s", left, text);
		else if (left == 0 && !strstr(text, "the clock cannot be read"))
			fail("no reading: %s", text);
		readings = -1;
		all_have(wanted, members);
	}
	if (!failed)
		fail("the plug-in reads another clock");
	/* A round that waits for a thread that does not stop must end nevertheless. */
	ask(&members[0], 'b');
	for (int left = 0; left < 10; left++) {
		readings = left;
		if (plugin.round(1, 200, text, sizeof text) >= 0 || !strstr(text, "nothing changed"))
			fail("%d readings and a blocked signal: %s", left, text);
		readings = -1;
	}
	ask(&members[0], 'u');
	must_round(&plugin, 1, MEMBERS + 1);
	all_have(wanted + 1, members);
	printf("%ld of 30 rounds failed\n", failed);
}

static volatile int over;

/* Allocates without a pause, from the only arena. */
static void *allocate(void *unused)
{
	while (!over)
		for (size_t size = 2000; size < 100000; size += 1000)
			free(malloc(size));
	return unused;
}

/* glibc's broadcast: signal 33 for each thread, registered with psx or not. */
static void *setgid_often(void *unused)
{
	for (int i = 0; i < SETGIDS; i++)
		if (setgid(getgid()))
			fail("setgid");
	return unused;
}

/* Signals 33 for unregistered threads inside malloc. */
static void beside_setgid(char **paths)
{
	pthread_t noise[NOISE], caller;
	struct plugin plugin;
	char text[512];

	mallopt(M_ARENA_MAX, 1);
	for (int i = 0; i < NOISE; i++)
		if (pthread_create(&noise[i], NULL, allocate, NULL))
			fail("pthread_create");
	plugin = load(paths[0]);
	must_round(&plugin, 0, 1);
	if (pthread_create(&caller, NULL, setgid_often, NULL))
		fail("pthread_create");
	for (int i = 0; i < 200; i++) {
		must_round(&plugin, 0, 1);
		/* A new library with thread-locals makes every thread's table of them out of date; the
		 * thread's next access in such a library replaces it. */
		if (i == 100)
			load(paths[1]);
	}
	pthread_join(caller, NULL);
	if (plugin.round(1, 200, text, sizeof text) != -1 || !strstr(text, "cannot be stopped by psx"))
		fail("a proof beside threads that psx does not know");
	over = 1;
	for (int i = 0; i < NOISE; i++)
		pthread_join(noise[i], NULL);
}

/* Loads, uses and closes the plug-in, and loads it again; after it is closed threads end, and glibc signals
 * all. */
static void reload(char **paths)
{
	for (int time = 0; time < 3; time++) {
		struct member members[MEMBERS];
		struct plugin plugin = load(paths[0]);
		long before = slack();

		for (int i = 0; i < MEMBERS; i++)
			start(&members[i]);
		adopt(&plugin, members);
		must_round(&plugin, 1, MEMBERS + 1);
		all_have(before + 1, members);
		unload(&plugin);
		/* The thread calls the closed library at its end. */
		ask(&members[0], 'q');
		setgid_often(NULL);
		plugin = load(paths[0]);
		must_round(&plugin, 1, MEMBERS);
		unload(&plugin);
		for (int i = 1; i < MEMBERS; i++)
			ask(&members[i], 'q');
		setgid_often(NULL);
	}
}

static void *call_often(void *argument)
{
	struct plugin *plugin = argument;
	long done = 0;
	char text[512];

	if (plugin->adopt())
		fail("a caller was not adopted");
	for (int i = 0; i < 4; i++) {
		if (plugin->round(0, 300, text, sizeof text) >= 0)
			done++;
		else if (!strstr(text, "nothing changed"))
			fail("an error without \"nothing changed\": %s", text);
	}
	return (void *)done;
}

/* Two plug-ins, each with a copy of psx: one after the other, then both at once. */
static void two(char **paths)
{
	struct member members[MEMBERS];
	struct plugin plugins[2] = { load(paths[0]), load(paths[1]) };
	pthread_t callers[2];
	long wanted = slack(), succeeded = 0;
	void *done;

	if (plugins[0].adopt == plugins[1].adopt)
		fail("one plug-in, loaded twice");
	for (int i = 0; i < MEMBERS; i++)
		start(&members[i]);
	for (int i = 0; i < 2; i++)
		adopt(&plugins[i], members);
	for (int i = 0; i < 6; i++)
		must_round(&plugins[i % 2], 1, MEMBERS + 1);
	wanted += 6;
	all_have(wanted, members);
	for (int i = 0; i < 2; i++)
		if (pthread_create(&callers[i], NULL, call_often, &plugins[i]))
			fail("pthread_create");
	for (int i = 0; i < 2; i++) {
		pthread_join(callers[i], &done);
		succeeded += (long)done;
	}
	wanted += succeeded;
	all_have(wanted, members);
	printf("%ld of 8 simultaneous rounds succeeded\n", succeeded);
	must_round(&plugins[0], 1, MEMBERS + 1);
	all_have(wanted + 1, members);
}

int main(int argc, char **argv)
{
	/* A deadlock ends by SIGALRM. */
	alarm(50);
	if (argc < 3)
		fail("usage: host SCENARIO PLUGIN...");
	if (!strcmp(argv[1], "beside-setgid"))
		beside_setgid(argv + 2);
	else if (!strcmp(argv[1], "reload"))
		reload(argv + 2);
	else if (!strcmp(argv[1], "two") && argc > 3)
		two(argv + 2);
	else if (!strcmp(argv[1], "no-clock"))
		no_clock(argv + 2);
	else
		fail("no scenario %s", argv[1]);
	return 0;
}
