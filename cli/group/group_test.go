package group

import (
	"testing"
	"time"

	"fairlead/admin"
	"fairlead/cli/clitest"
)

func TestGroups(t *testing.T) {
	b := clitest.NewBroker(t)
	day := time.Date(2026, 11, 25, 12, 0, 0, 0, time.Local)
	b.On("GET /v1/groups?limit=1000", admin.List[admin.Group]{Items: []admin.Group{{Name: "lamps", Created: day}, {Name: "sensors", About: "they report", Created: day}}})
	clitest.Run(t, Command, "", "list", "--data", b.Dir).Want(t, 0, `NAME     ADDED       ABOUT
lamps    2026-11-25  -
sensors  2026-11-25  they report
`, "")
	b.On("POST /v1/groups", admin.Group{Name: "sensors"})
	b.Asked()
	clitest.Run(t, Command, "", "add", "sensors", "--about", "they report", "--data", b.Dir).Want(t, 0, "sensors is added\n", "")
	b.WantAsked(`POST /v1/groups {"name":"sensors","about":"they report"}`)
	b.On("DELETE /v1/groups/lamps", struct{}{})
	clitest.Run(t, Command, "", "remove", "lamps", "--data", b.Dir).Want(t, 0, "lamps is removed\n", "")
	b.Refuse("DELETE /v1/groups/sensors", 409, `group "sensors": the group has members`)
	clitest.Run(t, Command, "", "remove", "sensors", "--data", b.Dir).Want(t, 1, "", "has members")
	clitest.Run(t, Command, "", "add").Want(t, 2, "", "expected one NAME")
}
