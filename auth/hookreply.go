package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

// parseReply reads a hook's answer, strictly: each field once, by its exact name, with
// its type. By itself encoding/json takes "RESULT" for "result", and the last of two.
func parseReply(text []byte, now time.Time) (*HookReply, error) {
	r, err := readReply(text)
	if err == nil {
		err = r.check(now)
	}
	if err != nil {
		return nil, fmt.Errorf("its answer: %w", err)
	}
	return r, nil
}

func readReply(text []byte) (*HookReply, error) {
	fields, err := decodeObject(text)
	if err != nil {
		return nil, err
	}
	r := new(HookReply)
	for name, v := range fields {
		switch name {
		case "result":
			r.Result, err = textClaim(fields, name)
		case "user":
			r.User, err = textClaim(fields, name)
		case "device":
			r.Device, err = textClaim(fields, name)
		case "groups":
			r.Groups, err = listClaim(fields, name)
		case "attrs":
			r.Attrs, err = textMap(v)
		case "expires":
			r.Expires, err = seconds(v)
		default:
			err = fmt.Errorf("unknown field %q", shorten(name))
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// check refuses what can't be meant.
func (r *HookReply) check(now time.Time) error {
	switch r.Result {
	case "allow", "deny", "ignore":
	default:
		return fmt.Errorf(`"result" is %q: expected allow, deny or ignore`, shorten(r.Result))
	}
	if r.Expires != 0 && !now.Before(time.Unix(r.Expires, 0)) {
		return errors.New(`"expires" is in the past`)
	}
	s := subject{r.Device, r.User, r.Groups, r.Attrs}
	return s.check()
}

func textMap(v any) (map[string]string, error) {
	object, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf(`"attrs" is a %s: expected an object`, kind(v))
	}
	texts := make(map[string]string, len(object))
	for k, v := range object {
		text, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("attribute %q is a %s: expected text", shorten(k), kind(v))
		}
		texts[k] = text
	}
	return texts, nil
}

// secondsMax is the end of the year 9999.
const secondsMax = 253402300799

func seconds(v any) (int64, error) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, fmt.Errorf(`"expires" is a %s: expected a number`, kind(v))
	}
	s, err := n.Int64()
	if err != nil || s < 0 || s > secondsMax {
		return 0, errors.New(`"expires": expected whole seconds of Unix time`)
	}
	return s, nil
}

// depthMax is how deep an answer's values may be nested.
const depthMax = 4

// decodeObject decodes exactly one JSON object in which no name stands twice.
func decodeObject(text []byte) (map[string]any, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("it is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	v, err := decodeValue(dec, depthMax)
	if err != nil {
		return nil, fmt.Errorf("no JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("it is a %s: expected an object", kind(v))
	}
	return object, nil
}

func decodeValue(dec *json.Decoder, depth int) (any, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == 0 {
		return nil, fmt.Errorf("nested deeper than %d", depthMax)
	}
	if open == '[' {
		return decodeList(dec, depth)
	}
	return decodeFields(dec, depth)
}

func decodeList(dec *json.Decoder, depth int) (any, error) {
	list := []any{}
	for dec.More() {
		v, err := decodeValue(dec, depth-1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := dec.Token()
	return list, err
}

func decodeFields(dec *json.Decoder, depth int) (any, error) {
	object := make(map[string]any)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, errors.New("a name that is no text")
		}
		if _, twice := object[name]; twice {
			return nil, fmt.Errorf("%q stands twice", shorten(name))
		}
		if object[name], err = decodeValue(dec, depth-1); err != nil {
			return nil, err
		}
	}
	_, err := dec.Token()
	return object, err
}
