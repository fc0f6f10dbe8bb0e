//go:build linux

package container_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/inlay-dev/inlay/cgroup"
	"github.com/inlay-dev/inlay/container"
	"github.com/inlay-dev/inlay/namespace"
	"github.com/inlay-dev/inlay/rootfs"
)

// The README's program.
func Example() {
	res, err := container.Run(context.Background(),
		container.WithCommand("sh", "-c", "echo $((6*7)); sleep 60"),
		container.WithTimeLimit(500*time.Millisecond),
		container.WithStdout(os.Stdout),
	)
	if err != nil {
		log.Fatal(err) // it could not be run
	}
	fmt.Println(res.Status) // time_limit: why the job ended

	// Output:
	// 42
	// time_limit
}

// A program, its input and its output.
func ExampleRun() {
	var out strings.Builder
	res, err := container.Run(context.Background(),
		container.WithCommand("tr", "a-z", "A-Z"),
		container.WithStdin(strings.NewReader("hello\n")),
		container.WithStdout(&out),
	)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(out.String())
	fmt.Println(res.Success(), res.StdoutBytes)

	// Output:
	// HELLO
	// true 6
}

// Command is exec.Command, with the program in a container: it has the same fields
// and methods, and a program that fails is an error.
func ExampleCommand() {
	cmd := container.Command("sh", "-c", "tr a-z A-Z; echo trouble >&2; exit 3")
	cmd.Stdin = strings.NewReader("hello\n")
	cmd.Options = []container.Option{container.WithTimeLimit(time.Minute)}
	out, err := cmd.Output()
	fmt.Printf("%s%v\n", out, err)
	var exit *container.ExitError
	if errors.As(err, &exit) {
		fmt.Print(exit.ExitCode(), " ", string(exit.Stderr))
	}

	// Output:
	// HELLO
	// exit status 3
	// 3 trouble
}

// A job that fails is no error: whoever wants one asks the Result.
func ExampleResult_Err() {
	res, err := container.Run(context.Background(), container.WithCommand("sh", "-c", "exit 3"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Status, res.ExitCode)
	var exit *container.ExitError
	fmt.Println(errors.As(res.Err(), &exit), res.Err())

	// Output:
	// exited 3
	// true exit status 3
}

// The end of the context ends the job, and is what its error matches.
func ExampleRun_cancel() {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	res, err := container.Run(ctx, container.WithCommand("sleep", "60"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Status, errors.Is(res.Err(), context.DeadlineExceeded))

	// Output:
	// canceled true
}

// Jobs in one container share its files and its processes.
func ExampleContainer_Exec() {
	ctx := context.Background()
	c, err := container.New() // no command: it waits for Exec
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // an example
	if err := c.Start(ctx); err != nil {
		log.Fatal(err)
	}
	for _, line := range []string{"echo kept > /tmp/file", "cat /tmp/file", "exit 7"} {
		p, err := c.Exec(ctx, container.WithCommand("sh", "-c", line), container.WithStdout(os.Stdout))
		if err != nil {
			log.Fatal(err)
		}
		res, err := p.Wait(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(res.Status, res.ExitCode)
	}

	// Output:
	// exited 0
	// kept
	// exited 0
	// exited 7
}

// Stop asks the job to end, and would kill it after the grace.
func ExampleContainer_Stop() {
	ctx := context.Background()
	r, w, err := os.Pipe()
	if err != nil {
		log.Fatal(err)
	}
	c, err := container.New(
		container.WithCommand("sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do :; done"),
		container.WithStdout(w),
		container.WithStopGrace(time.Minute),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // an example
	if err := c.Start(ctx); err != nil {
		log.Fatal(err)
	}
	ready := make([]byte, len("ready"))
	if _, err := io.ReadFull(r, ready); err != nil { // the trap is set
		log.Fatal(err)
	}
	fmt.Println(c.State(), string(ready))
	if err := c.Stop(ctx); err != nil {
		log.Fatal(err)
	}
	res, err := c.Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.State(), res.Status, res.ExitCode)

	// Output:
	// running ready
	// stopped exited 5
}

// A second container is on the first one's network, and nowhere else: it reaches what
// listens there on lo.
func ExampleWithNamespaceOf() {
	ctx := context.Background()
	server, err := container.New()
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close() //nolint:errcheck // shown elsewhere
	if err := server.Start(ctx); err != nil {
		log.Fatal(err)
	}
	network := func(c *container.Container) string {
		var out strings.Builder
		p, err := c.Exec(ctx, container.WithCommand("readlink", "/proc/self/ns/net"), container.WithStdout(&out))
		if err != nil {
			log.Fatal(err)
		}
		if _, err := p.Wait(ctx); err != nil {
			log.Fatal(err)
		}
		return out.String()
	}
	client, err := container.New(container.WithNamespaceOf(server, namespace.Network))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // shown elsewhere
	if err := client.Start(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(network(client) == network(server))

	// Output:
	// true
}

// Files are written, and memory file systems made, before the job begins.
func ExampleWithFile() {
	_, err := container.Run(context.Background(),
		container.WithFile("/job/greeting", []byte("hello from the host\n"), 0o644),
		container.WithMounts(rootfs.Tmpfs("/scratch", rootfs.Size(1<<20))),
		container.WithDir("/scratch"),
		container.WithCommand("sh", "-c", "cp /job/greeting copy && cat copy"),
		container.WithStdout(os.Stdout),
	)
	if err != nil {
		log.Fatal(err)
	}

	// Output:
	// hello from the host
}

// New reports every fault at once, before anything runs.
func ExampleOptionError() {
	_, err := container.New(
		container.WithCommand("true"),
		container.WithMemoryLimit(-1),
		container.WithTimeLimit(-2*time.Second),
	)
	fmt.Println(err)

	// Output:
	// inlay: WithMemoryLimit(-1): below 1048576 bytes
	// inlay: WithTimeLimit(-2s): not above zero
}

// What keeps a command from running is told in words, and found by errors.Is.
func ExampleStartError() {
	_, err := container.Run(context.Background(), container.WithCommand("no-such-command"))
	fmt.Println(errors.Is(err, container.ErrNotFound))
	var start *container.StartError
	if errors.As(err, &start) {
		fmt.Println(start.Phase, start.Op, start.Path)
	}

	// Output:
	// true
	// exec execve no-such-command
}

// A limit that cannot be enforced is an error, unless it was called optional.
func ExampleOptional() {
	limit := container.WithResources(cgroup.Limits{Hugetlb: map[string]int64{"3KB": 0}}) // no machine has such pages
	_, err := container.Run(context.Background(), container.WithCommand("true"), limit)
	var lacking *container.LimitError
	fmt.Println(errors.As(err, &lacking), errors.Is(err, errors.ErrUnsupported))

	res, err := container.Run(context.Background(), container.WithCommand("true"), container.Optional(limit))
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range res.Dropped {
		if d.Option == "WithResources" {
			fmt.Println(res.Status, "without", d.Option)
			break
		}
	}

	// Output:
	// true true
	// exited without WithResources
}

// A request can be stored, and be made a container of later.
func ExampleFromSpec() {
	c, err := container.New(container.WithID("job-1"), container.WithCommand("true"), container.WithTimeLimit(time.Second))
	if err != nil {
		log.Fatal(err)
	}
	stored, err := json.Marshal(c.Spec())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(stored))

	var spec container.Spec
	if err := json.Unmarshal(stored, &spec); err != nil {
		log.Fatal(err)
	}
	again, err := container.FromSpec(spec)
	fmt.Println(again, err)

	// Output:
	// {"id":"job-1","job":{"command":["true"],"time_limit_ns":1000000000}}
	// container job-1 (created) <nil>
}

// Every option prints what it stands for.
func ExampleOptions() {
	small := container.Options(
		container.WithTimeLimit(time.Second),
		container.WithRlimit("nofile", 64, 64),
	)
	fmt.Println(small)

	// Output:
	// WithTimeLimit(1s), WithRlimit("nofile", 64, 64)
}

// The README's program is the Example, and imports what it needs.
func TestReadmeIsTheExample(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("needs the sources: ../README.md is not here")
	}
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "\n```go\n")
	require.True(t, found, "no Go program in the README")
	program, _, found := strings.Cut(rest, "\n```\n")
	require.True(t, found)
	formatted, err := format.Source([]byte(program + "\n"))
	require.NoError(t, err)
	require.Equal(t, program+"\n", string(formatted), "gofmt")

	readme := parse(t, "README.md", program)
	source, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	example := parse(t, "example_test.go", string(source))
	require.Equal(t, "main", readme.file.Name.Name)
	require.Equal(t, example.body(t, "Example"), readme.body(t, "main"))

	used := map[string]bool{}
	ast.Inspect(readme.file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name != "res" {
				used[x.Name] = true
			}
		}
		return true
	})
	imported := map[string]bool{}
	for _, i := range readme.file.Imports {
		name, err := strconv.Unquote(i.Path.Value)
		require.NoError(t, err)
		imported[path.Base(name)] = true
	}
	require.Equal(t, used, imported)
}

// parsed is a Go file and its text.
type parsed struct {
	files *token.FileSet
	file  *ast.File
	text  string
}

func parse(t *testing.T, name, text string) parsed {
	t.Helper()
	p := parsed{files: token.NewFileSet(), text: text}
	var err error
	p.file, err = parser.ParseFile(p.files, name, text, parser.ParseComments)
	require.NoError(t, err)
	return p
}

// body is the text of a function's body, up to the Output of an Example.
func (p parsed) body(t *testing.T, name string) string {
	t.Helper()
	for _, d := range p.file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == name {
			text := p.text[p.files.Position(f.Body.Lbrace).Offset+1 : p.files.Position(f.Body.Rbrace).Offset]
			text, _, _ = strings.Cut(text, "// Output:")
			return strings.TrimSpace(text)
		}
	}
	require.Fail(t, "no function "+name)
	return ""
}

// What happened to a container, from its start to its end.
func ExampleContainer_Events() {
	ctx := context.Background()
	c, err := container.New(container.WithCommand("sh", "-c", "sleep 60"), container.WithTimeLimit(20*time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		log.Fatal(err)
	}
	go func() {
		<-c.Done()
		if err := c.Close(); err != nil {
			log.Print(err)
		}
	}()
	for e := range c.Events(ctx) {
		fmt.Println(e.Kind)
	}

	// Output:
	// started
	// limit
	// exited
	// closed
}

// The figures of a running container, and another limit for it.
func ExampleContainer_Update() { //nolint:testableexamples // needs control groups
	ctx := context.Background()
	c, err := container.New(container.WithCommand("sleep", "60"), container.WithMemoryLimit(64*container.MiB))
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		log.Fatal(err) // a *LimitError where there are no control groups
	}
	defer c.Close() //nolint:errcheck // an example
	stats, err := c.Stats(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(stats.Memory.Now, "of", 64*container.MiB)
	if err := c.Update(ctx, container.WithMemoryLimit(128*container.MiB)); err != nil {
		log.Fatal(err)
	}
}

// What a job leaves in its memory file systems can be read until Close.
func ExampleContainer_FS() {
	c, err := container.New(container.WithCommand("sh", "-c", "echo 42 >/tmp/answer"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close() //nolint:errcheck // an example
	if err := c.Start(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := c.Wait(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	text, err := fs.ReadFile(c.FS(), "tmp/answer")
	fmt.Printf("%s%v\n", text, err)

	// Output:
	// 42
	// <nil>
}

// A server in the container, here this very program, has no network but its own lo, and
// answers the host program all the same.
func ExampleContainer_Dial() {
	ctx := context.Background()
	exe, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	c, err := container.New(container.WithMounts(rootfs.Bind(exe, "/run/server", rootfs.ReadOnly())))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // shown elsewhere
	if err := c.Start(ctx); err != nil {
		log.Fatal(err)
	}
	server := c.Command("/run/server", dialServer, "http", "tcp", "127.0.0.1:8080")
	server.Env = []string{jobEnv}
	out, err := server.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it listens
		log.Fatal(err)
	}

	client := http.Client{Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}}
	res, err := client.Get("http://127.0.0.1:8080/hello")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // only read from
	text, err := io.ReadAll(res.Body)
	if err != nil {
		log.Fatal(err)
	}
	what, _, _ := strings.Cut(string(text), " from ")
	fmt.Println(res.Status, what)

	// Output:
	// 200 OK GET /hello
}

// Sources go in, what was made of them comes out, and neither has to be a mount.
func ExampleContainer_CopyOut() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "project")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir) //nolint:errcheck // an example
	if err := os.WriteFile(dir+"/in", []byte("6 7"), 0o644); err != nil {
		fmt.Println(err)
		return
	}
	c, err := container.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close() //nolint:errcheck // an example
	if err := c.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := c.CopyIn(ctx, dir, "/tmp/work"); err != nil {
		fmt.Println(err)
		return
	}
	if err := c.Command("sh", "-c", "mkdir /tmp/work/out; read a b </tmp/work/in; echo $((a*b)) >/tmp/work/out/answer").Run(); err != nil {
		fmt.Println(err)
		return
	}
	report, err := c.CopyOut(ctx, "/tmp/work/out", dir, container.WithMaxBytes(container.MiB), container.WithMaxEntries(100))
	if err != nil {
		fmt.Println(err) // and how much is there by now
		return
	}
	text, err := os.ReadFile(dir + "/out/answer")
	fmt.Printf("%d entries, %d bytes: %s%v\n", report.Entries, report.Bytes, text, err)

	// Output:
	// 2 entries, 3 bytes: 42
	// <nil>
}

// What a stranger's program does to a project is looked at before it counts.
func ExampleContainer_Changes() {
	project, err := os.MkdirTemp("", "project")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(project) //nolint:errcheck // the example's own folder
	if err := os.WriteFile(filepath.Join(project, "main.go"), []byte("package main\n"), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	c, err := container.New(
		container.WithMounts(rootfs.Workspace(project, "/work", rootfs.Staged())),
		container.WithCommand("/bin/sh", "-c", "cd /work; rm main.go; echo 'module x' >go.mod"),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close() //nolint:errcheck // as Discard
	if err := c.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := c.Wait(ctx); err != nil {
		fmt.Println(err)
		return
	}
	for change, err := range c.Changes() {
		fmt.Println(change, err)
	}
	if err := c.Commit(ctx, "/work"); err != nil {
		fmt.Println(err)
	}
	list, err := os.ReadDir(project)
	fmt.Println(list, err)
	// Output:
	// A /work/go.mod <nil>
	// D /work/main.go <nil>
	// [- go.mod] <nil>
}

// A shell with a terminal: what is typed, and what is seen.
func ExampleContainer_Terminal() {
	ctx := context.Background()
	c, err := container.New(container.WithCommand("sh", "-c", "read name; stty size; echo hello $name"), container.WithTerminal(24, 80))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // nothing was left where Wait has returned
	if err := c.Start(ctx); err != nil {
		log.Fatal(err)
	}
	if _, err := io.WriteString(c.Terminal(), "you\n"); err != nil {
		log.Fatal(err)
	}
	seen, err := io.ReadAll(c.Terminal())
	if !errors.Is(err, syscall.EIO) { // how a terminal ends
		log.Fatal(err)
	}
	for _, line := range []string{"you\r\n", "24 80\r\n", "hello you\r\n"} {
		fmt.Println(strings.Contains(string(seen), line))
	}
	res, err := c.Wait(ctx)
	fmt.Println(res.ExitCode, err)

	// Output:
	// true
	// true
	// true
	// 0 <nil>
}

// A user by name, of the root's own passwd.
func ExampleWithUser() {
	res, err := container.Run(context.Background(), container.WithUser("root:root"), container.WithCommand("sh", "-c", "id -u; id -g"), container.WithStdout(os.Stdout))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Success())

	_, err = container.Run(context.Background(), container.WithUser("alice"), container.WithCommand("true"))
	fmt.Println(err)

	// Output:
	// 0
	// 0
	// true
	// inlay: prepare: WithUser /etc/passwd: no user "alice" (the container's own file is looked into, not the host's: give an id, or a root that has the name)
}

// A profile prints what it stands for; what comes after it wins.
func ExampleProfileAgent() {
	fmt.Println(container.ProfileAgent())
	c, err := container.New(container.WithCommand("true"), container.ProfileAgent(), container.WithTimeLimit(time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(*c.Spec().Job.TimeLimit)
	// Output:
	// ProfileAgent(WithMemoryLimit(1073741824), WithCPULimit(1), WithPidsLimit(256), WithTimeLimit(2m0s), WithOutputLimit(1048576))
	// 1s
}

// What the containers of a program came to is counted for all of them together.
func ExampleMetrics() {
	before := container.Metrics()
	for _, line := range []string{"exit 0", "exit 1", "kill -9 $$"} {
		if _, err := container.Run(context.Background(), container.WithCommand("sh", "-c", line)); err != nil {
			fmt.Println(err)
		}
	}
	now := container.Metrics()
	for _, status := range []container.Status{container.Exited, container.Signaled} {
		fmt.Println(status, now.Ends[status]-before.Ends[status])
	}
	// Output:
	// exited 2
	// signaled 1
}
