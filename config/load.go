package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// LoadOptions are the places that a configuration comes from.
type LoadOptions struct {
	File  string    // YAML; empty: none
	Env   []string  // KEY=value; only FAIRLEAD_* counts
	Flags []Setting // the strongest
}

// Setting is one value from the command line.
type Setting struct {
	Flag  string // as the operator wrote it, for errors: "--listen"
	Key   string // "limits.queue_messages"
	Value string // a list is separated by commas
}

// fileMax is the largest configuration file. No sensible one comes near.
const fileMax = 1 << 20

// Load reads the configuration and checks it. The error lists everything that is
// wrong, a line each, with file, line and column where there are some.
func Load(o LoadOptions) (*Config, error) {
	c := Default()
	at := places{}
	var errs []error
	if o.File != "" {
		errs = append(errs, c.loadFile(o.File, at)...)
	}
	errs = append(errs, c.loadEnv(o.Env, at)...)
	for _, s := range o.Flags {
		if err := c.set(strings.Split(s.Key, "."), s.Value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Flag, err))
		}
		at.set(s.Key, s.Flag)
	}
	if len(c.Listeners) == 0 {
		if c.Listeners = DefaultListeners(); c.Open {
			c.Listeners = LoopbackListeners()
		}
	}
	if len(errs) == 0 {
		errs = append(errs, c.validate(at))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// places says where each key was set: "fairlead.yaml:3:19", "--listen".
type places map[string]string

// set notes that the key, with all below it, was set at a place.
func (p places) set(key, place string) {
	for k := range p {
		if below(k, key) {
			delete(p, k)
		}
	}
	p[key] = place
}

func below(key, top string) bool {
	rest, ok := strings.CutPrefix(key, top)
	return ok && rest != "" && (rest[0] == '.' || rest[0] == '[')
}

// of returns the place of a key, or of what it stands in; "" for a default.
func (p places) of(key string) string {
	for key != "" {
		if place := p[key]; place != "" {
			return place
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return ""
}

func (c *Config) loadFile(name string, at places) []error {
	info, err := os.Stat(name)
	if err != nil {
		return []error{fmt.Errorf("read configuration: %w", err)}
	}
	if info.Size() > fileMax {
		return []error{fmt.Errorf("read configuration %s: %d bytes: expected at most %d", name, info.Size(), fileMax)}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return []error{fmt.Errorf("read configuration: %w", err)}
	}
	return c.loadYAML(name, text, at)
}

// yamlLine is how the YAML package names the line of an error.
var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// loadYAML takes over what a YAML document says.
func (c *Config) loadYAML(name string, text []byte, at places) []error {
	r := &reader{file: name, at: at}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0 {
		return nil // empty, or comments only
	}
	if err == nil {
		if err = dec.Decode(&second); err == nil {
			r.wrong(&second, "", "a second document: expected one")
			return r.errs
		}
	}
	if !errors.Is(err, io.EOF) {
		what := yamlLine.ReplaceAllString(err.Error(), "$1: ")
		return []error{fmt.Errorf("%s:%s", name, strings.Replace(what, "yaml: ", " ", 1))}
	}
	r.node(doc.Content[0], reflect.ValueOf(c).Elem(), "")
	return r.errs
}

// reader walks through a YAML document and the Config side by side.
type reader struct {
	file string
	at   places
	errs []error
}

func (r *reader) wrong(n *yaml.Node, key, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if key != "" {
		what = key + ": " + what
	}
	r.errs = append(r.errs, fmt.Errorf("%s:%d:%d: %s", r.file, n.Line, n.Column, what))
}

// node puts what n says into v.
func (r *reader) node(n *yaml.Node, v reflect.Value, key string) {
	if key != "" {
		r.at.set(key, fmt.Sprintf("%s:%d:%d", r.file, n.Line, n.Column))
	}
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		r.wrong(n, key, "anchors and aliases are not used here")
	case v.Type() == reflect.TypeFor[Listener]() && n.Kind == yaml.ScalarNode:
		v.Set(reflect.ValueOf(Listener{URL: n.Value}))
	case v.Kind() == reflect.Struct:
		r.mapping(n, v, key)
	case v.Kind() == reflect.Slice:
		r.sequence(n, v, key)
	case n.Kind != yaml.ScalarNode:
		r.wrong(n, key, "expected %s, found a %s", expected(v), kindOf(n))
	case n.Tag == "!!null":
		// A key without a value keeps its default.
	default:
		if err := setScalar(v, n.Value); err != nil {
			r.wrong(n, key, "%v", err)
		}
	}
}

func (r *reader) mapping(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.wrong(n, key, "expected keys and values, found a %s", kindOf(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		name := join(key, k.Value)
		if line, twice := seen[k.Value]; twice {
			r.wrong(k, name, "stands here twice, first in line %d", line)
			continue
		}
		seen[k.Value] = k.Line
		field, ok := fieldOf(v, k.Value)
		if !ok {
			r.wrong(k, "", "unknown key %q%s", name, suggestion(v, key, k.Value))
			continue
		}
		r.node(val, field, name)
	}
}

func (r *reader) sequence(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.wrong(n, key, "expected a list, found a %s", kindOf(n))
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		r.node(item, list.Index(i), fmt.Sprintf("%s[%d]", key, i))
	}
	v.Set(list)
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "mapping"
	case yaml.SequenceNode:
		return "list"
	}
	return fmt.Sprintf("value %q", n.Value)
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// fieldOf returns the field of a struct that a key names.
func fieldOf(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == key {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// suggestion names the known key that is nearest to an unknown one, or all.
func suggestion(v reflect.Value, prefix, key string) string {
	best, bestAt := "", 1+len(key)/2
	var all []string
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		all = append(all, name)
		if d := distance(name, key); d < bestAt {
			best, bestAt = name, d
		}
	}
	if best != "" {
		return fmt.Sprintf(": expected %q?", join(prefix, best))
	}
	return ": expected one of " + strings.Join(all, ", ")
}

// distance is how many letters must change to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost = 1 + min(last, row[j], row[j+1])
			}
			last, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// envPrefix begins the names of the variables that count.
const envPrefix = "FAIRLEAD_"

// commandsOwn are the variables that are for commands.
var commandsOwn = []string{"CONFIG", "PASSPHRASE", "SERVER", "TOKEN"}

// loadEnv takes over FAIRLEAD_* variables; two underscores go one level down.
func (c *Config) loadEnv(env []string, at places) (errs []error) {
	for _, kv := range env {
		name, value, ok := strings.Cut(kv, "=")
		key, ours := strings.CutPrefix(name, envPrefix)
		if !ok || !ours || slices.Contains(commandsOwn, key) {
			continue
		}
		path := strings.Split(strings.ToLower(key), "__")
		if err := c.set(path, value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
		}
		at.set(strings.Join(path, "."), "environment variable "+name)
	}
	return errs
}

// set sets the value at a path of keys.
func (c *Config) set(path []string, value string) error {
	v := reflect.ValueOf(c).Elem()
	for i, key := range path {
		if v.Kind() != reflect.Struct {
			return fmt.Errorf("%s has nothing below it", strings.Join(path[:i], "."))
		}
		field, ok := fieldOf(v, key)
		if !ok {
			return fmt.Errorf("unknown key %q%s", strings.Join(path[:i+1], "."), suggestion(v, strings.Join(path[:i], "."), key))
		}
		v = field
	}
	key := strings.Join(path, ".")
	switch v.Kind() {
	case reflect.Slice:
		return setList(v, value)
	case reflect.Struct:
		return fmt.Errorf("%s is not one value%s", key, suggestion(v, key, ""))
	}
	if err := setScalar(v, value); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func setList(v reflect.Value, value string) error {
	var items []string
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	if v.Type().Elem() == reflect.TypeFor[Listener]() {
		list := make([]Listener, len(items))
		for i, item := range items {
			list[i].URL = item
		}
		v.Set(reflect.ValueOf(list))
		return nil
	}
	v.Set(reflect.ValueOf(items))
	return nil
}

// setScalar sets one value from its text.
func setScalar(v reflect.Value, s string) error {
	bad := fmt.Errorf("%q: expected %s", s, expected(v))
	switch v.Interface().(type) {
	case time.Duration:
		d, err := time.ParseDuration(s)
		if err != nil && s != "0" {
			return bad
		}
		v.SetInt(int64(d))
		return nil
	case Bytes:
		n, ok := parseBytes(s)
		if !ok {
			return bad
		}
		v.SetInt(n)
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
		return nil
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return bad
		}
		v.SetBool(b)
		return nil
	case reflect.Uint16:
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return bad
		}
		v.SetUint(n)
		return nil
	case reflect.Int:
		n, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, 64)
		if err != nil {
			return bad
		}
		v.SetInt(n)
		return nil
	}
	panic("config: no way to set a " + v.Type().String())
}

// expected says in words what a value must look like.
func expected(v reflect.Value) string {
	switch v.Interface().(type) {
	case time.Duration:
		return "a duration like 10s, 5m or 1h30m"
	case Bytes:
		return "a size like 65536, 64KiB or 8MB"
	}
	switch v.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Uint16:
		return "a whole number from 0 to 65535"
	case reflect.Int:
		return "a whole number"
	}
	return "text"
}

var units = []struct {
	name  string
	bytes int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}}

func parseBytes(s string) (int64, bool) {
	unit := int64(1)
	for _, u := range units {
		if number, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = strings.TrimSpace(number), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, false
	}
	return n * unit, true
}
