package doctor

import (
	"testing"

	"fairlead/admin"
	"fairlead/cli/clitest"
)

func TestDoctor(t *testing.T) {
	b := clitest.NewBroker(t)
	warning := admin.Finding{Severity: admin.Warning, What: "the root CA ends in 20 days", Why: "Then no device trusts the broker."}
	b.On("GET /v1/doctor", admin.Findings{Findings: []admin.Finding{
		{Severity: admin.Danger, What: "mqtt://0.0.0.0:1883 has no encryption", Why: "Whoever is on the network\nreads all passwords.", Command: "fairlead serve --listen mqtts://:8883"},
		warning,
	}})
	clitest.Run(t, Command, "", "--data", b.Dir).Want(t, 1, `DANGER   mqtt://0.0.0.0:1883 has no encryption
         Whoever is on the network
         reads all passwords.
         Mend it: fairlead serve --listen mqtts://:8883

WARNING  the root CA ends in 20 days
         Then no device trusts the broker.

1 danger, 1 warning, 0 pieces of advice
`, "")
	b.On("GET /v1/doctor", admin.Findings{Findings: []admin.Finding{warning}})
	if r := clitest.Run(t, Command, "", "--data", b.Dir); r.Code != 0 {
		t.Errorf("a warning only: exit code %d", r.Code)
	}
	b.On("GET /v1/doctor", admin.Findings{})
	clitest.Run(t, Command, "", "--data", b.Dir).Want(t, 0, "nothing is insecure or about to end\n", "")
	clitest.Run(t, Command, "", "--json", "--data", b.Dir).Want(t, 0, "[]\n", "")
	clitest.Run(t, Command, "", "--data", t.TempDir()).Want(t, 1, "", "no broker answers")
}
