package repo

import (
	"context"
	"errors"
	"time"

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
}

const intentsPrefix = "intents/"

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
		if err == nil && intentsPrefix+in.ID != o.Name {
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
