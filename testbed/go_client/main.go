// A stock gRPC client in Go: it connects without TLS, and sends one message of bytes to a method.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// raw sends and receives messages as bytes, so that the client needs no generated code.
type raw struct{}

func (raw) Name() string                     { return "proto" }
func (raw) Marshal(value any) ([]byte, error) { return value.([]byte), nil }
func (raw) Unmarshal(content []byte, into any) error {
	*into.(*[]byte) = append([]byte(nil), content...)
	return nil
}

func main() {
	address, method := os.Args[1], os.Args[2]
	message, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ending, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var answer []byte
	if err := connection.Invoke(ending, method, message, &answer, grpc.ForceCodec(raw{})); err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	os.Stdout.Write(answer)
}
