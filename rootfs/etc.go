package rootfs

import (
	"fmt"
	"strings"
)

// EtcDenied lists what [Host] hides of the host's /etc even where an ordinary
// user may read it: secrets, and what tells about the machine. A name that ends
// in "-" is the backup that the shadow tools leave.
func EtcDenied() []string {
	return []string{
		"shadow", "shadow-", "gshadow", "gshadow-", "passwd-", "group-", "subuid", "subuid-", "subgid", "subgid-",
		"sudoers", "sudoers.d", "sudo.conf", "doas.conf", "security/opasswd",
		"ssh", "ssl/private", "pki/tls/private", "pki/private", "letsencrypt", "krb5.keytab", "keys",
		"cron.d", "cron.daily", "cron.hourly", "cron.monthly", "cron.weekly", "crontab", "anacrontab",
		"docker", "containers", "containerd", "kubernetes", "rancher", "cni", "wireguard", "openvpn", "ipsec.d", "ipsec.secrets", "strongswan", "ppp",
		"NetworkManager", "netplan", "wpa_supplicant", "machine-id", "fstab", "crypttab", "cryptsetup-initramfs", "exports",
		"samba", "mysql", "postgresql", "redis", "cloud", "aws", "azure", "google-cloud", "boto.cfg", "vault.d", "consul.d", "nomad.d",
		"apt/auth.conf", "apt/auth.conf.d", "credstore", "credstore.encrypted", "polkit-1", "audit", "libvirt", "pam.d",
	}
}

// Identity is what the /etc of [Host] tells about the container.
type Identity struct {
	Hostname string
	UID, GID uint32 // of the main job
	// Resolv and Hosts are the contents of resolv.conf and hosts of a container that has
	// a network; nil: it has lo alone.
	Resolv, Hosts []byte
	// Cover tells that they, and hostname, cover what a root that is not Host has of them
	// in its /etc.
	Cover bool
}

// etcOwn are the names of the files of /etc that are of our own making.
var etcOwn = []string{"passwd", "group", "hosts", "hostname", "nsswitch.conf", "resolv.conf"}

// Accounts are passwd and group of [Host].
func (id Identity) Accounts() (passwd, group string) {
	passwd = "root:x:0:0:root:/tmp:/bin/sh\n"
	group = "root:x:0:\n"
	if id.UID != 0 && id.UID != 65534 {
		passwd += fmt.Sprintf("user:x:%d:%d:user:/tmp:/bin/sh\n", id.UID, id.GID)
	}
	if id.GID != 0 && id.GID != 65534 {
		group += fmt.Sprintf("user:x:%d:\n", id.GID)
	}
	passwd += "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
	group += "nogroup:x:65534:\n"
	return passwd, group
}

// covers are the files that a root's own /etc has covered.
func (id Identity) covers() (out []File) {
	if !id.Cover {
		return nil
	}
	for _, f := range etcFiles(id) {
		if f.Path == "hosts" || f.Path == "hostname" || f.Path == "resolv.conf" {
			out = append(out, f)
		}
	}
	return out
}

// etcFiles are those files, in the same order.
func etcFiles(id Identity) []File {
	passwd, group := id.Accounts()
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if id.Hostname != "" && !strings.HasPrefix(id.Hostname, "localhost") {
		hosts += "127.0.1.1\t" + id.Hostname + "\n"
	}
	resolv := "# no network\n"
	if id.Resolv != nil || id.Hosts != nil {
		resolv, hosts = string(id.Resolv), string(id.Hosts)
	}
	file := func(name, content string) File { return File{Path: name, Data: []byte(content), Mode: 0o644} }
	return []File{
		file("passwd", passwd),
		file("group", group),
		file("hosts", hosts),
		file("hostname", id.Hostname+"\n"),
		file("nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n"),
		file("resolv.conf", resolv),
	}
}
