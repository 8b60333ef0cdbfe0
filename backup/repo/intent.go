package repo

import (
	"context"
	"time"
)

// intent is a deletion that has been decided. It is never taken back, only carried out, by anybody.
type intent struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Backups []string  `json:"backups"` // prefixes of their objects
	Packs   []PackID  `json:"packs"`   // nobody may come to need them any more; those that are needed already stay
}

const intentsPrefix = "intents/"

func (r *Repo) intents(ctx context.Context) ([]intent, error) {
	var all []intent
	for o, err := range r.st.List(ctx, intentsPrefix) {
		if err != nil {
			return nil, err
		}
		var in intent
		err := r.getJSON(ctx, kindIntent, o.Name, &in)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if intentsPrefix+in.ID != o.Name {
			return nil, damaged(o.Name, "it belongs elsewhere")
		}
		all = append(all, in)
	}
	return all, nil
}
