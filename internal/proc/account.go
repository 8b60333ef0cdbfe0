package proc

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Account is the operating system user a child runs as.
type Account struct {
	Name   string
	Home   string
	UID    uint32
	GID    uint32
	Groups []uint32
}

// Current returns the account of this process.
func Current() (Account, error) {
	uid := os.Geteuid()
	u, err := user.LookupId(strconv.Itoa(uid))
	if err == nil {
		return account(u)
	}
	// Containers run as numbers without a name.
	return Account{Name: strconv.Itoa(uid), Home: "/", UID: uint32(uid), GID: uint32(os.Getegid())}, nil //nolint:gosec // ids are 32 bits
}

// Lookup returns the account of a name.
func Lookup(name string) (Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return Account{}, fmt.Errorf("look up user %s: %w", name, err)
	}
	return account(u)
}

// Unprivileged returns the current account or, for root, the first of names that exists.
func Unprivileged(names ...string) (Account, error) {
	if os.Geteuid() != 0 {
		return Current()
	}
	for _, name := range names {
		if a, err := Lookup(name); err == nil && a.UID != 0 {
			return a, nil
		}
	}
	return Account{}, fmt.Errorf("none of the users %v exists, and this program does not run as root", names)
}

func account(u *user.User) (Account, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return Account{}, fmt.Errorf("user %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return Account{}, fmt.Errorf("user %s: %w", u.Username, err)
	}
	a := Account{Name: u.Username, Home: u.HomeDir, UID: uint32(uid), GID: uint32(gid)}
	ids, _ := u.GroupIds() // without them the child has only its own group
	for _, id := range ids {
		if g, err := strconv.ParseUint(id, 10, 32); err == nil {
			a.Groups = append(a.Groups, uint32(g))
		}
	}
	return a, nil
}

// Foreign reports whether the account differs from that of this process.
func (a Account) Foreign() bool { return int(a.UID) != os.Geteuid() }

// Credential makes a child run as the account; nil when it already does.
func (a Account) Credential() *syscall.Credential {
	if !a.Foreign() {
		return nil
	}
	return &syscall.Credential{Uid: a.UID, Gid: a.GID, Groups: a.Groups}
}

// MkdirAll makes dir and its missing parents; dir itself belongs to the account alone.
func (a Account) MkdirAll(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // others pass through, the last folder is private
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	return a.Own(dir)
}

// Own gives path to the account, if it is not its own already. A link is given
// away itself, never what it leads to.
func (a Account) Own(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && st.Uid == a.UID && st.Gid == a.GID {
		return nil
	}
	if !a.Foreign() {
		if ok && st.Uid == a.UID {
			return nil
		}
		return fmt.Errorf("%s belongs to another user (uid %d)", path, st.Uid)
	}
	return os.Lchown(path, int(a.UID), int(a.GID))
}

// CanEnter returns an error naming the first folder on the way to dir that the account cannot enter.
func (a Account) CanEnter(dir string) error {
	blocked, err := a.Blocked(dir)
	if err != nil || blocked == "" {
		return err
	}
	return fmt.Errorf("user %s cannot enter %s", a.Name, blocked)
}

// Blocked returns the first folder on the way to dir that the account cannot
// enter by its mode or access list; empty when there is none. What is missing does not block.
func (a Account) Blocked(dir string) (string, error) {
	if a.UID == 0 {
		return "", nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	var way []string
	for ; ; dir = filepath.Dir(dir) {
		way = append(way, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	for _, d := range slices.Backward(way) {
		info, err := os.Stat(d)
		if os.IsNotExist(err) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !a.mayEnter(st) && !a.listed(d) {
			return d, nil
		}
	}
	return "", nil
}

// listed reports whether the folder's access list lets the account in by name
// (posix_acl_xattr.h: version, then tag, permissions and id of each entry).
func (a Account) listed(dir string) bool {
	raw := make([]byte, 4096)
	n, err := unix.Getxattr(dir, "system.posix_acl_access", raw)
	if err != nil {
		return false
	}
	const header, entry, tagUser, search = 4, 8, 2, 1
	for e := raw[min(header, n):n]; len(e) >= entry; e = e[entry:] {
		tag, perm, id := binary.LittleEndian.Uint16(e), binary.LittleEndian.Uint16(e[2:]), binary.LittleEndian.Uint32(e[4:])
		if tag == tagUser && id == a.UID && perm&search != 0 {
			return true
		}
	}
	return false
}

func (a Account) mayEnter(st *syscall.Stat_t) bool {
	switch {
	case st.Uid == a.UID:
		return st.Mode&0o100 != 0
	case st.Gid == a.GID || slices.Contains(a.Groups, st.Gid):
		return st.Mode&0o010 != 0
	default:
		return st.Mode&0o001 != 0
	}
}

// Owner returns the account that path belongs to.
func Owner(path string) (Account, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Account{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Account{}, fmt.Errorf("%s: its owner cannot be told", path)
	}
	if u, err := user.LookupId(strconv.FormatUint(uint64(st.Uid), 10)); err == nil {
		return account(u)
	}
	return Account{Name: strconv.FormatUint(uint64(st.Uid), 10), Home: "/", UID: st.Uid, GID: st.Gid}, nil
}
