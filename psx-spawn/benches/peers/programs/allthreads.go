// Go's syscall.AllThreadsSyscall, one round for each call. The protocol is that of peer.h.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	prSetKeepcaps   = 8
	prSetNoNewPrivs = 38
	capVersion3     = 0x20080522
)

type capHeader struct {
	version uint32
	pid     int32
}

var (
	uid, gid = uintptr(os.Getuid()), uintptr(os.Getgid())
	groups   []uint32
	header   = capHeader{version: capVersion3}
	caps     [6]uint32
)

func must(name string, errno syscall.Errno) {
	if errno != 0 {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, errno)
		os.Exit(1)
	}
}

func broadcast(name string, nr, a1, a2, a3 uintptr) {
	_, _, errno := syscall.AllThreadsSyscall(nr, a1, a2, a3)
	must(name, errno)
}

func setUID() { broadcast("setresuid", syscall.SYS_SETRESUID, uid, uid, uid) }

func ids() {
	// One more element than needed, so that an empty list has an address too.
	broadcast("setgroups", syscall.SYS_SETGROUPS, uintptr(len(groups)-1), uintptr(unsafe.Pointer(&groups[0])), 0)
	broadcast("setresgid", syscall.SYS_SETRESGID, gid, gid, gid)
	setUID()
}

func six() {
	broadcast("keepcaps", syscall.SYS_PRCTL, prSetKeepcaps, 1, 0)
	ids()
	broadcast("capset", syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&caps[0])), 0)
	_, _, errno := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0)
	must("no_new_privs", errno)
}

// The process's first thread makes the calls, as in the other peers.
func init() { runtime.LockOSThread() }

func main() {
	debug.SetMaxThreads(20000)
	debug.SetGCPercent(-1)
	threads := 1
	if len(os.Args) > 1 {
		threads, _ = strconv.Atoi(os.Args[1])
	}
	own, err := os.Getgroups()
	if err != nil {
		fmt.Fprintln(os.Stderr, "getgroups:", err)
		os.Exit(1)
	}
	for _, group := range own {
		groups = append(groups, uint32(group))
	}
	groups = append(groups, 0)
	_, _, errno := syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&caps[0])), 0)
	must("capget", errno)

	var parked sync.WaitGroup
	parked.Add(threads)
	for i := 0; i < threads; i++ {
		go func() {
			runtime.LockOSThread()
			parked.Done()
			select {}
		}()
	}
	parked.Wait()

	ops := map[string]func(){"one": setUID, "ids": ids, "six": six}
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	fmt.Fprintln(out, "ready")
	out.Flush()
	for {
		var name string
		var rounds int
		if _, err := fmt.Fscan(in, &name, &rounds); err != nil {
			return
		}
		for i := 0; i < rounds; i++ {
			from := time.Now()
			ops[name]()
			fmt.Fprint(out, time.Since(from).Nanoseconds(), " ")
		}
		fmt.Fprintln(out)
		out.Flush()
	}
}
