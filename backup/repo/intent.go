package repo

import (
	"context"
	"errors"
	"slices"
	"time"

	"rootstream/backup/repo/logs"
	"rootstream/backup/repo/pack"
	"rootstream/backup/repo/seal"
	"rootstream/backup/storage"
	"rootstream/errs"
)

// intent is a deletion that has been decided. It is never taken back, only carried out, by anybody.
type intent struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Backups []string  `json:"backups"` // prefixes of their objects
	Packs   []pack.ID `json:"packs"`   // nobody may come to need them any more; those that are needed already stay

	Log []logs.Floor `json:"log,omitempty"` // likewise log below them; an intent that has floors has nothing else
}

const intentsPrefix = "intents/"

func (in intent) object() string { return intentsPrefix + in.ID }

// within reports that another intent says all of this one's floors, and more; of two that say the same one is within the other.
func (in intent) within(o intent) bool {
	_, more := raised(o.Log, in.Log)
	_, less := raised(in.Log, o.Log)
	return !more && (less || in.ID < o.ID)
}

// floorsOf are those that intents name together.
func floorsOf(intents []intent) (all []logs.Floor) {
	for _, in := range intents {
		all, _ = raised(all, in.Log)
	}
	return all
}

// taken reports whether intents take a backup.
func taken(intents []intent, id string) bool {
	return slices.ContainsFunc(intents, func(in intent) bool {
		return slices.ContainsFunc(in.Backups, func(prefix string) bool {
			name, _ := parseBackupName(prefix + manifestObj)
			return name.id == id
		})
	})
}

func (r *Repo) intents(ctx context.Context) ([]intent, error) {
	var all []intent
	for o, err := range r.st.List(ctx, intentsPrefix) {
		if err != nil {
			return nil, err
		}
		var in intent
		err := r.safe.GetJSON(ctx, seal.KindIntent, o.Name, &in)
		if storage.Gone(err) {
			continue
		}
		if err == nil && in.object() != o.Name {
			err = seal.Damaged(o.Name, "it belongs elsewhere")
		}
		if errors.Is(err, ErrDamaged) {
			err = errs.Of(err).WithHint("what it was to delete is not known: once no backup and no prune is under way, remove " + o.Name + " from " + r.st.URL())
		}
		if err != nil {
			return nil, err
		}
		all = append(all, in)
	}
	return all, nil
}
