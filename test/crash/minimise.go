package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// tries is how often a smaller scenario is played before it counts as one that
// does not fail: what happens in it is not determined.
const tries = 2

// minimiser looks for the smallest scenario that still breaks the same promise.
type minimiser struct {
	campaign *campaign
	fault    fault
	deadline time.Time
	best     *result
	played   int
}

// minimiseFirst minimises the first failure of the campaign, greedily: only those
// who were involved, then fewer kills, then fewer roles, then less to say.
func (c *campaign) minimiseFirst(ctx context.Context) error {
	m := &minimiser{campaign: c, fault: c.failed.model.violations[0].fault, deadline: time.Now().Add(c.minimise)}
	fmt.Fprintf(c.progress, "minimising seed %d (%s), at most %s\n", c.failed.scenario.Seed, m.fault, c.minimise)
	smallest := c.failed.scenario
	for _, smaller := range []func(*scenario, int) *scenario{m.involved(c.failed), halfOfKills, halfOfRoles, withoutKill, withoutRole, halfAsLong} {
		var err error
		if smallest, err = m.reduce(ctx, smallest, smaller); err != nil {
			return err
		}
	}
	const again = 5
	failed := 0
	for range again {
		res, err := m.play(ctx, smallest)
		if err != nil {
			return err
		}
		if res != nil {
			failed++
			m.best = res
		}
	}
	if m.best == nil {
		fmt.Fprintf(c.progress, "  not seen again in %d rounds on new directories: see the history\n", m.played)
		return nil
	}
	reduced := fmt.Sprintf("minimised to %d kills and %d roles; failed in %d of %d rounds at the end\n",
		len(smallest.Kills), len(smallest.Roles), failed, again)
	name, err := writeFailure(c.failures, m.best, reduced)
	fmt.Fprintf(c.progress, "  %s  history: %s\n", reduced, name)
	return err
}

// reduce makes the scenario smaller as long as it goes on failing. smaller
// returns the ith way to do so, or nil.
func (m *minimiser) reduce(ctx context.Context, s *scenario, smaller func(*scenario, int) *scenario) (*scenario, error) {
	for i := 0; time.Now().Before(m.deadline); {
		candidate := smaller(s, i)
		if candidate == nil {
			break
		}
		res, err := m.fails(ctx, candidate)
		if err != nil {
			return s, err
		}
		if res == nil {
			i++
			continue
		}
		s, m.best = candidate, res
	}
	return s, nil
}

// fails plays the scenario until it breaks the promise, at most tries times.
func (m *minimiser) fails(ctx context.Context, s *scenario) (*result, error) {
	for range tries {
		res, err := m.play(ctx, s)
		if res != nil || err != nil {
			return res, err
		}
	}
	return nil, nil
}

// play plays the scenario on a new directory and returns a result only if it
// breaks the promise.
func (m *minimiser) play(ctx context.Context, s *scenario) (res *result, err error) {
	m.played++
	dir := filepath.Join(m.campaign.dir, fmt.Sprintf("min%d", m.played))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	p, err := newProcess(m.campaign.binary, dir, m.campaign.flags, m.campaign.plant)
	if err != nil {
		return nil, err
	}
	defer func() {
		if p.cmd != nil {
			err = errors.Join(err, p.close())
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	r := &round{scenario: s, process: p, drain: min(m.campaign.drain, 5*time.Second)}
	if res, err = r.play(ctx); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(res.model.violations, func(v violation) bool { return v.fault == m.fault }) {
		return nil, nil
	}
	return res, nil
}

// involved leaves only the roles that stand in the first violations of the
// promise: in one, in ten, in a thousand.
func (m *minimiser) involved(res *result) func(*scenario, int) *scenario {
	return func(s *scenario, i int) *scenario {
		if i > 2 || len(s.Roles) < len(res.scenario.Roles) {
			return nil
		}
		var named []string
		most := []int{1, 10, 1000}[i]
		for _, v := range res.model.violations {
			if v.fault != m.fault || most == 0 {
				continue
			}
			most--
			for _, at := range v.marks {
				named = append(named, res.model.event(at).client)
			}
		}
		roles := slices.DeleteFunc(slices.Clone(s.Roles), func(r role) bool { return !slices.Contains(named, r.Name) })
		if len(roles) == len(s.Roles) || len(roles) == 0 {
			return nil
		}
		return s.with(s.Kills, roles)
	}
}

func halfOfKills(s *scenario, i int) *scenario {
	if len(s.Kills) < 2 || i > 1 {
		return nil
	}
	half := len(s.Kills) / 2
	return s.with(cutHalf(s.Kills, half, i), s.Roles)
}

func halfOfRoles(s *scenario, i int) *scenario {
	// Quarters: a fault mostly needs a publisher and a subscriber, and those stand
	// in different halves.
	size := (len(s.Roles) + 3) / 4
	if len(s.Roles) < 8 || i*size >= len(s.Roles) {
		return nil
	}
	return s.with(s.Kills, slices.Delete(slices.Clone(s.Roles), i*size, min((i+1)*size, len(s.Roles))))
}

func cutHalf(kills []kill, half, i int) []kill {
	if i == 0 {
		return kills[:half]
	}
	return kills[half:]
}

func withoutKill(s *scenario, i int) *scenario {
	if i >= len(s.Kills) {
		return nil
	}
	return s.with(slices.Delete(slices.Clone(s.Kills), i, i+1), s.Roles)
}

func withoutRole(s *scenario, i int) *scenario {
	if i >= len(s.Roles) || len(s.Roles) < 2 {
		return nil
	}
	return s.with(s.Kills, slices.Delete(slices.Clone(s.Roles), i, i+1))
}

// halfAsLong lets everybody say half as much.
func halfAsLong(s *scenario, i int) *scenario {
	most := 0
	roles := slices.Clone(s.Roles)
	for j := range roles {
		roles[j].Messages /= 2
		most = max(most, roles[j].Messages)
	}
	if i > 0 || most < 4 {
		return nil
	}
	return s.with(s.Kills, roles)
}

func (s *scenario) with(kills []kill, roles []role) *scenario {
	c := *s
	c.Kills, c.Roles = kills, roles
	return &c
}
