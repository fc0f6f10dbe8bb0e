package namespace

import (
	"fmt"
	"slices"
	"strings"
)

// The kernel's parameters of System V and POSIX IPC, sysctl/kernel.rst and
// ipc_namespaces(7).
var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
	"kernel.auto_msgmni", "kernel.msg_next_id", "kernel.sem_next_id", "kernel.shm_next_id",
}

// SysctlKind returns the kind of namespace that a kernel parameter belongs to, by its
// name with dots: Network for net.*, IPC for those of shared memory, semaphores and
// message queues, User for user.max_*. All others are the machine's own, and an error;
// so are those that an option of containers is for.
func SysctlKind(name string) (Kind, error) {
	first, rest, _ := strings.Cut(name, ".")
	switch {
	case slices.Contains(strings.Split(name, "."), "") || strings.ContainsAny(name, "/\x00\n\t "):
		return "", fmt.Errorf("not a name with dots")
	case name == "kernel.hostname":
		return "", fmt.Errorf("use WithHostname")
	case name == "kernel.domainname":
		return "", fmt.Errorf("use WithDomainname")
	case name == "user.max_user_namespaces":
		return "", fmt.Errorf("use WithUserNamespaceCreation")
	case first == "net" && rest != "":
		return Network, nil
	case slices.Contains(ipcSysctls, name), strings.HasPrefix(name, "fs.mqueue.") && rest != "":
		return IPC, nil
	case first == "user" && strings.HasPrefix(rest, "max_"):
		return User, nil
	}
	return "", fmt.Errorf("the whole machine's: it belongs to no namespace")
}
