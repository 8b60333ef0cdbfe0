package seal

import (
	"bytes"
	"context"
	"errors"

	"rootstream/backup/storage"
)

// Check looks at what opens the repository, and tells judge of each object what
// is wrong with it, or nil. An error that judge returns ends it.
func (s *Safe) Check(ctx context.Context, judge func(object string, err error) error) error {
	root, err := readRoot(ctx, s.st)
	if err == nil {
		err = s.ring.check(root)
	}
	if errors.Is(err, ErrNoRepository) {
		err = Damaged(RootName, "%w", err)
	}
	if err = judge(RootName, err); err != nil {
		return err
	}
	for o, err := range s.st.List(ctx, keysPrefix) {
		if err != nil {
			return err
		}
		body, err := s.st.Get(ctx, o.Name, 0, min(o.Size, maxKeyObject+1))
		if storage.Gone(err) {
			continue
		}
		if err == nil {
			err = s.checkKey(o.Name, body)
		}
		if err = judge(o.Name, err); err != nil {
			return err
		}
	}
	for o, err := range s.st.List(ctx, epochsPrefix) {
		if err != nil {
			return err
		}
		if err := judge(o.Name, s.loadEpoch(ctx, o.Name)); err != nil {
			return err
		}
	}
	return nil
}

// checkKey reads a key object, and opens it if we have its key.
func (s *Safe) checkKey(name string, body []byte) error {
	o, err := parseKeyObject(name, body)
	if err != nil || o.Repository != s.ring.id {
		return err
	}
	for _, key := range s.keys {
		root, err := o.unwrap(key)
		if err != nil {
			return err
		}
		if root != nil && !bytes.Equal(root, s.ring.root) {
			return Damaged(name, "it opens another repository")
		}
	}
	return nil
}
