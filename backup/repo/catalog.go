package repo

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
)

// Entry is a backup in the catalog.
type Entry struct {
	Manifest         // without Files and Packs
	Proofs   []Proof // the oldest first
	Err      error   // why it cannot be read, or cannot be trusted to count; of one that cannot be read only its id, its cluster's and when it was written are known
}

// Proof is what checking a backup has shown.
type Proof struct {
	Kind   string            `json:"kind"` // "verify", "test-restore"
	At     time.Time         `json:"at"`
	OK     bool              `json:"ok"`
	Took   time.Duration     `json:"took"`
	Detail string            `json:"detail,omitempty"`
	Facts  map[string]string `json:"facts,omitempty"`
}

const (
	readers     = 8 // objects that are read at once
	proofPrefix = "proof-"
	pinPart     = "pinned"
	manifestObj = "manifest"
	proofTime   = "20060102T150405Z"
)

// Catalog returns all backups, each cluster's in the order of timeline and
// position. A damaged one is in it and says so; one that was not committed is not.
func (r *Repo) Catalog(ctx context.Context) ([]Entry, error) {
	found, err := r.survey(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the catalog: %w", err)
	}
	return entries(found), nil
}

// entries are the backups that count, and those of which that is not known.
func entries(found []*surveyed) (all []Entry) {
	for _, s := range found {
		if !s.pending {
			e := s.Entry
			e.Manifest = e.header()
			e.Err = cmp.Or(e.Err, s.doubt)
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return compareManifests(a.Manifest, b.Manifest) })
	return all
}

// surveyed is a manifest as a survey finds it, also one whose run is not over.
type surveyed struct {
	Entry
	sum     seal.Hash // of what the manifest says
	settled bool      // it has its mark
	mark    error     // what is wrong with the mark
	pending bool
	dead    bool     // pending for good: its run was declared dead, and what it had sent came late
	doubt   error    // whether it is committed cannot be read
	objects []string // all of the backup's, the manifest first
}

// survey reads every manifest and what belongs to it. Sessions are read after the
// manifests: whose run had not ended by then is pending.
func (r *Repo) survey(ctx context.Context) ([]*surveyed, error) {
	found, err := r.surveyManifests(ctx)
	if err != nil {
		return nil, err
	}
	records, err := r.runs.Records(ctx)
	for _, s := range found {
		s.weigh(records)
	}
	return found, err
}

func (r *Repo) surveyManifests(ctx context.Context) ([]*surveyed, error) {
	systems, err := r.Systems(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]*surveyed{}
	for _, system := range systems {
		for o, err := range r.st.List(ctx, backupsPrefix(system)) {
			if err != nil {
				return nil, err
			}
			if name, ok := parseBackupName(o.Name); ok {
				note(found, name, o)
			}
		}
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for _, s := range found {
		group.Go(func() error { return r.fill(gctx, s) })
	}
	err = group.Wait()
	maps.DeleteFunc(found, func(_ string, s *surveyed) bool { return storage.Gone(s.Err) })
	return slices.Collect(maps.Values(found)), err
}

// note adds an object to its backup. "manifest" comes before the others by name; should it not be readable, it still
// has its age, by which retention goes.
func note(found map[string]*surveyed, name backupName, o storage.Object) {
	key := strconv.FormatUint(name.system, 10) + "/" + name.id
	s := found[key]
	if s == nil {
		s = &surveyed{}
		s.ID, s.Cluster.SystemID, s.Completed = name.id, name.system, o.Modified.UTC()
		s.objects = []string{s.object()}
		found[key] = s
	}
	if name.part != manifestObj {
		s.objects = append(s.objects, o.Name)
	}
}

// fill reads a backup's objects. Only a storage that does not answer is an error.
func (r *Repo) fill(ctx context.Context, s *surveyed) error {
	m, sum, err := r.manifest(ctx, s.objects[0])
	switch {
	case err == nil:
		s.Manifest, s.sum = m, sum
	case storage.Gone(err):
		s.Err, err = r.lost(ctx, s.objects[0], err)
	case errors.Is(err, ErrDamaged):
		s.Err, err = err, nil
	}
	if err != nil || storage.Gone(s.Err) {
		return err
	}
	for _, name := range s.objects[1:] {
		part := name[strings.LastIndexByte(name, '/')+1:]
		switch {
		case part == pinPart:
			s.Pinned = true
		case part == settledPart:
			err = r.checkMark(ctx, name, s.sum)
			if errors.Is(err, ErrDamaged) {
				s.mark = err
			} else if err != nil && !storage.Gone(err) {
				return err
			}
			s.settled = err == nil
		case strings.HasPrefix(part, proofPrefix):
			var p Proof
			err = r.safe.GetJSON(ctx, seal.KindProof, name, &p)
			if errors.Is(err, ErrDamaged) {
				p = Proof{Kind: "unreadable", Detail: err.Error()}
			} else if err != nil && !storage.Gone(err) {
				return err
			}
			if !storage.Gone(err) {
				s.Proofs = append(s.Proofs, p)
			}
		}
	}
	return nil
}

// manifest reads one by the name of its object, and sums up its content.
func (r *Repo) manifest(ctx context.Context, object string) (m Manifest, sum seal.Hash, err error) {
	plain, err := r.safe.Get(ctx, seal.KindManifest, object)
	if err != nil {
		return m, sum, err
	}
	if err = seal.DecodeJSON(plain, &m); err == nil {
		err = m.check()
	}
	if err == nil && m.object() != object {
		err = errors.New("it belongs elsewhere")
	}
	if err != nil {
		return Manifest{}, sum, seal.Damaged(object, "%w", err)
	}
	return m, r.NewHasher().Sum(plain), nil
}

// Manifest returns a whole manifest.
func (r *Repo) Manifest(ctx context.Context, id string) (Manifest, error) {
	prefix, err := r.find(ctx, id)
	if err != nil {
		return Manifest{}, err
	}
	m, sum, err := r.manifest(ctx, prefix+manifestObj)
	if err != nil {
		return Manifest{}, err
	}
	_, err = r.st.Stat(ctx, prefix+pinPart)
	if m.Pinned = err == nil; err != nil && !storage.Gone(err) {
		return Manifest{}, err
	}
	if err = r.counts(ctx, m, sum); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// find returns where a backup's objects are.
func (r *Repo) find(ctx context.Context, id string) (string, error) {
	systems, err := r.Systems(ctx)
	if err != nil || !validID(id) {
		return "", errors.Join(err, ErrNoBackup.WithCause(fmt.Errorf("%.80q", id)))
	}
	for _, system := range systems {
		prefix := backupsPrefix(system) + id + "/"
		_, err := r.st.Stat(ctx, prefix+manifestObj)
		if err == nil {
			return prefix, nil
		}
		if !storage.Gone(err) {
			return "", err
		}
	}
	return "", ErrNoBackup.WithCause(errors.New(id))
}

// PutProof records what checking a backup has shown.
func (r *Repo) PutProof(ctx context.Context, id string, p Proof) error {
	prefix, err := r.find(ctx, id)
	if err != nil {
		return err
	}
	random, err := seal.RandomBytes(4)
	if err != nil {
		return err
	}
	p.At = p.At.UTC()
	name := prefix + proofPrefix + p.At.Format(proofTime) + "-" + hex.EncodeToString(random)
	if err = r.safe.PutJSON(ctx, seal.KindProof, name, p); err != nil {
		return err
	}
	if _, err = r.st.Stat(ctx, prefix+manifestObj); storage.Gone(err) { // deleted meanwhile
		return errors.Join(ErrNoBackup.WithCause(errors.New(id)), r.st.Delete(ctx, name))
	}
	return err
}

type pinObject struct {
	Backup string    `json:"backup"`
	ID     uuid.UUID `json:"id"`
}

// Pin keeps a backup from being deleted, unless a deletion has begun on it.
func (r *Repo) Pin(ctx context.Context, id string) error {
	prefix, err := r.find(ctx, id)
	if err != nil {
		return err
	}
	err = r.safe.PutJSON(ctx, seal.KindPin, prefix+pinPart, pinObject{id, uuid.New()})
	if err != nil && !errors.Is(err, storage.ErrExists) {
		return err
	}
	begun, err := r.intents(ctx)
	if err != nil {
		return err
	}
	_, err = r.st.Stat(ctx, prefix+manifestObj)
	if storage.Gone(err) || err == nil && taken(begun, id) {
		return errors.Join(ErrNoBackup.WithCause(fmt.Errorf("%s is being deleted", id)), r.st.Delete(ctx, prefix+pinPart))
	}
	return err
}

// Unpin lets a backup be deleted again.
func (r *Repo) Unpin(ctx context.Context, id string) error {
	prefix, err := r.find(ctx, id)
	if err != nil {
		return err
	}
	return r.st.Delete(ctx, prefix+pinPart)
}
