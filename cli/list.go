package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"

	"fairlead/admin"
)

// Paging are the flags of a command that lists what may be long.
type Paging struct {
	After string
	Limit int // 0: all
}

// Flags adds --limit and --after.
func (p *Paging) Flags(f *Flags) {
	f.Int(&p.Limit, "limit", "COUNT", 1, math.MaxInt, "at most so many; default: all")
	f.String(&p.After, "after", "NAME", "go on behind this one")
}

// List is a list of the API, as a command prints it: page by page, so that one of a
// million items is not kept in memory. Therefore the columns of each page are aligned
// for themselves.
type List[T any] struct {
	Get    func(context.Context, admin.Page) (*admin.List[T], error)
	Paging Paging
	JSON   bool     // as one array
	Head   []string // the columns
	Row    func(T) []string
	None   string // what to say if the list is empty
}

// Print prints the list, and says on standard error where to go on if there is more of
// it. It returns the number of items.
func (l *List[T]) Print(ctx context.Context, env *Env) (count int, err error) {
	array := &jsonArray{w: env.Stdout}
	next, err := l.each(ctx, func(items []T) error {
		first := count == 0
		count += len(items)
		if l.JSON {
			return add(array, items)
		}
		return l.page(env.Stdout, items, first)
	})
	switch {
	case err != nil:
		return count, err
	case l.JSON:
		err = array.end()
	case count == 0:
		_, err = fmt.Fprintln(env.Stdout, l.None)
	}
	if next != "" {
		fmt.Fprintf(env.Stderr, "There are more: --after %s goes on.\n", Printable(next))
	}
	return count, err
}

// each hands page after page to show, until there are no more or the limit is reached;
// then next says where to go on.
func (l *List[T]) each(ctx context.Context, show func([]T) error) (next string, err error) {
	left := l.Paging.Limit
	if left == 0 {
		left = math.MaxInt
	}
	for next = l.Paging.After; ; {
		part, err := l.Get(ctx, admin.Page{After: next, Limit: min(left, admin.LimitMax)})
		if err != nil {
			return "", err
		}
		if err := show(part.Items); err != nil {
			return "", err
		}
		left -= len(part.Items)
		if part.Next == "" || left <= 0 {
			return part.Next, nil
		}
		if part.Next == next {
			return "", fmt.Errorf("the broker's list does not go on behind %q", next)
		}
		next = part.Next
	}
}

func (l *List[T]) page(to io.Writer, items []T, first bool) error {
	t := &Table{}
	if first && len(items) > 0 {
		t.Row(l.Head...)
	}
	for _, item := range items {
		t.Row(l.Row(item)...)
	}
	return t.Print(to, "")
}

// jsonArray writes items as they come.
type jsonArray struct {
	w     io.Writer
	begun bool
}

func add[T any](a *jsonArray, items []T) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for _, item := range items {
		before := "[\n  "
		if a.begun {
			before = ",\n  "
		}
		a.begun = true
		b.WriteString(before)
		if err := e.Encode(item); err != nil {
			return err
		}
		b.Truncate(b.Len() - 1) // Encode's end of line
	}
	_, err := a.w.Write(b.Bytes())
	return err
}

func (a *jsonArray) end() error {
	text := "[]\n"
	if a.begun {
		text = "\n]\n"
	}
	_, err := io.WriteString(a.w, text)
	return err
}
