; Starts the v1.1 client once: settings from setup.txt in the folder given, outcome.txt into it.
#NoEnv
#NoTrayIcon
#SingleInstance Off
#Warn All, StdOut
OnError("Fail")
#Include %A_ScriptDir%\..\..\clients\ahk\SOLUCAO_COM_REDUNDANCIA.ahk

Main(A_Args[1])
ExitApp, 0

Main(folder) {
    EnvSet, TMP, %folder%
    EnvSet, TEMP, %folder%
    g_LicenseAPI_Servers := []
    settings := {}
    FileRead, text, *P65001 %folder%\setup.txt
    Loop, Parse, text, `n
    {
        at := InStr(A_LoopField, "=")
        name := SubStr(A_LoopField, 1, at - 1), value := SubStr(A_LoopField, at + 1)
        if (name = "server")
            g_LicenseAPI_Servers.Push(value)
        else
            settings[name] := value
    }
    g_LicenseAPI_Key := settings.key
    g_LicenseAPI_SharedSecret := settings.secret
    g_LicenseAPI_RootKeyX := settings.x
    g_LicenseAPI_RootKeyY := settings.y
    g_LicenseAPI_DeviceId := settings.device
    g_LicenseAPI_TimeoutSeconds := settings.timeout
    g_LicenseAPI_StateFile := settings.state

    BusyPc.busyMs := settings.busy
    licenca := BusyPc.Check()
    outcome := licenca.allow "`n" licenca.status "`n" licenca.message "`n"
    for _, feature in licenca.features
        outcome .= feature "`n"
    FileDelete, %folder%\outcome.txt
    FileAppend, %outcome%, *%folder%\outcome.txt, UTF-8
}

; A PC that has other things to do between the question and the wait for its answer.
class BusyPc extends LicenseAPI {
    static busyMs := 0

    IsAnswered(http, deadline) {
        Sleep, % this.busyMs
        return base.IsAnswered(http, deadline)
    }
}

Fail(problem) {
    FileAppend, % problem.Message " (" problem.File ":" problem.Line ")`n", *, UTF-8-RAW
    ExitApp, 9
}
