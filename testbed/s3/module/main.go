// An S3-compatible store for tests. The subfolders of a folder are its buckets, and every request must be signed.
// The full versitygw program also has other backends, which take most of the build time.
package main

import (
	"context"
	"log"
	"os"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

// s3 ADDRESS FOLDER METADATA-FOLDER, with ROOT_ACCESS_KEY and ROOT_SECRET_KEY in the environment.
func main() {
	sidecar, err := meta.NewSideCar(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	backend, err := posix.New(os.Args[2], sidecar, posix.PosixOpts{SideCarDir: os.Args[3]})
	if err != nil {
		log.Fatal(err)
	}
	err = embedgw.RunVersityGW(context.Background(), backend, &embedgw.Config{
		RootUserAccess:    os.Getenv("ROOT_ACCESS_KEY"),
		RootUserSecret:    os.Getenv("ROOT_SECRET_KEY"),
		Ports:             []string{os.Args[1]},
		MaxConnections:    100,
		MaxRequests:       100,
		MultipartMaxParts: 100,
	})
	if err != nil {
		log.Fatal(err)
	}
}
