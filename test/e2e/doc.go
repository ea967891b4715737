// Package e2e holds the tests that drive a built broker with clients other
// people wrote: Mosquitto's command line clients, Paho for Go (3.1.1 and 5.0)
// and MQTT.js, over TCP and WebSocket. It also runs every command of README.md.
// Begin with scenarios_test.go: what each library must see, told once for all
// of them; main_test.go starts the broker.
package e2e
